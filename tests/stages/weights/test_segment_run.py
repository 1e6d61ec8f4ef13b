"""Segments run on what the samples and the store hold; results come in order, whatever a thread does."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from models.build import Weights, build
from models.chains import matmul_chain
from models.constants import CHAINS, weight_chain
from tests.stages.weights.walking import Feed, loaded, samples_of
from vqonnx.calibration.activation_store import ActivationStore
from vqonnx.errors import UnsupportedModelError
from vqonnx.graph.io import load
from vqonnx.graph.segments import Segment, constant_nodes, segments
from vqonnx.graph.walk import values_by_name
from vqonnx.stages.weights.segment_run import SegmentRunner


def cut_at(model: ir.Model, *names: str) -> list[Segment]:
    values, fixed = values_by_name(model), constant_nodes(model.graph)
    return segments(model.graph, [[values[name]] for name in names], fixed.__contains__)


def run_all(
    model: ir.Model, feeds: list[Feed], folder: Path, names: list[str], **replaced: Any
) -> dict[str, list[Any]]:
    """All segments one after the other; the values ``names`` in each sample."""
    found: dict[str, list[Any]] = {}
    with ActivationStore(folder) as store, ThreadPoolExecutor(2) as pool:
        runner = SegmentRunner(model, samples_of(feeds), range(len(feeds)), store, pool, 2)
        for segment in cut_at(model, *names):
            kept = [value.name or "" for value in segment.outputs]
            constants = {(name, 1): array for name, array in replaced.items() if name in segment.node_names}
            with store.writing(kept) as append:

                def look(sample: int, outputs: Any, kept: Any = kept, append: Any = append) -> Any:
                    append(sample, [outputs[name] for name in kept])
                    return outputs

                for _, outputs in runner.run(segment, constants, look):
                    for name, array in outputs.items():
                        found.setdefault(name, []).append(array)
    return found


def normals(count: int, *shape: int) -> list[Feed]:
    rng = np.random.default_rng(7)
    return [{"x": rng.normal(size=shape).astype(np.float32)} for _ in range(count)]


def chain_of(model: ir.Model, feed: Feed, layers: int) -> Any:
    x = feed["x"].astype(np.float64)
    for layer in range(layers):
        x = np.tanh(x @ model.graph.initializers[f"w{layer}"].const_value.numpy())  # type: ignore[union-attr]
    return x


def test_segments_one_after_the_other_give_what_the_model_gives(tmp_path: Path) -> None:
    model, feeds = loaded(matmul_chain(4)), normals(5, 3, 16)
    found = run_all(model, feeds, tmp_path, ["t1", "y"])
    for feed, inner, last in zip(feeds, found["t1"], found["y"], strict=True):
        np.testing.assert_allclose(inner, chain_of(model, feed, 2), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(last, chain_of(model, feed, 4), rtol=1e-5, atol=1e-6)


def test_wrong_shapes_inside_the_model_do_no_harm(tmp_path: Path) -> None:
    """What is declared of inner values is often left over from another batch size; ONNX Runtime only warns of it."""
    model, feeds = loaded(matmul_chain(4)), normals(3, 3, 16)
    inner = values_by_name(model)["t1"]
    for wrong in (ir.Shape([1, 16]), ir.Shape([3]), None):
        inner.shape = wrong
        found = run_all(model, feeds, tmp_path, ["t1", "y"])
        np.testing.assert_allclose(found["y"][2], chain_of(model, feeds[2], 4), rtol=1e-5, atol=1e-6)
        assert inner.shape == wrong


def test_inputs_with_a_default_need_no_value(tmp_path: Path) -> None:
    weights = Weights(0)
    weights.normal("k", 4, 4)
    text = """defaults (float[N, 4] x, float[4, 4] k) => (float[N, 4] y) {
        a = MatMul (x, k)
        r = Relu (a)
        y = MatMul (r, k)
    }"""
    model, feeds = loaded(build(text, weights.arrays)), normals(2, 3, 4)
    other = np.eye(4, dtype=np.float32)
    found = run_all(model, [feeds[0], {**feeds[1], "k": other}], tmp_path, ["r", "y"])
    k = weights.arrays["k"]
    np.testing.assert_allclose(found["y"][0], np.maximum(feeds[0]["x"] @ k, 0) @ k, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["y"][1], np.maximum(feeds[1]["x"], 0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", list(CHAINS))
def test_a_weight_that_nodes_compute_is_replaced_where_it_is_read(kind: str, tmp_path: Path) -> None:
    model, feeds = loaded(weight_chain(CHAINS[kind])), normals(2, 3, 8)
    (name,) = (node.name for node in model.graph if node.op_type == "MatMul")
    product = next(node.outputs[0].name for node in model.graph if node.op_type == "MatMul")
    found = run_all(model, feeds, tmp_path, [product or ""], **{name or "": np.full((8, 4), 0.5, np.float32)})
    for feed, array in zip(feeds, found[product or ""], strict=True):
        np.testing.assert_allclose(array, feed["x"] @ np.full((8, 4), 0.5), rtol=1e-5, atol=1e-6)


def test_a_sequence_of_unknown_type_is_told(tmp_path: Path) -> None:
    text = """parts (float[N, 4] x) => (float[N, 4] y) {
        s = SplitToSequence <axis = 0> (x)
        y = ConcatFromSequence <axis = 0> (s)
    }"""
    model = load(build(text))
    assert values_by_name(model)["s"].type is None
    with pytest.raises(UnsupportedModelError, match="value 's', which the model does not declare a type of, is a list"):
        run_all(model, normals(1, 2, 4), tmp_path, ["s", "y"])


def test_results_come_in_order_and_few_are_under_way(tmp_path: Path) -> None:
    model, feeds = loaded(matmul_chain(2)), normals(20, 3, 16)
    lock, ahead, most, overtaken = threading.Lock(), [0], [0], threading.Event()

    def look(sample: int, outputs: Any) -> int:
        if sample == 1:
            assert overtaken.wait(10)  # the first one is the last of those that run
        if sample == 3:
            overtaken.set()
        with lock:
            ahead[0] += 1
            most[0] = max(most[0], ahead[0])
        return sample

    with ActivationStore(tmp_path) as store, ThreadPoolExecutor(2) as pool:
        runner = SegmentRunner(model, samples_of(feeds), range(1, 20, 2), store, pool, 2)
        (segment,) = cut_at(model, "y")
        seen = []
        for sample, told in runner.run(segment, {}, look):
            assert sample == told
            with lock:
                ahead[0] -= 1
            seen.append(sample)
    assert seen == list(range(1, 20, 2))
    assert most[0] <= 4  # three that wait or run, and the one that is looked at
