"""Random graphs, a hundred of them; the rest is run by tools/fuzz.py. And the generator and the checks themselves."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

import fuzz
from models.fuzz import random_case
from models.matmuls import linear_bias
from tests.quantizers.flow import normals, run
from vqonnx import quantize_static


@pytest.mark.parametrize("first", range(0, 100, 20))
def test_random_graphs_become_right_models_or_are_refused(first: int) -> None:
    """Each in one of the forms by turns; tools/fuzz.py writes each in all of them."""
    tally = fuzz.run(first, 20, forms=lambda seed: (fuzz.FORMS[seed % len(fuzz.FORMS)],))
    assert tally.faults == []
    assert tally.quantized.total() >= 10


def test_equal_seeds_give_equal_models_that_run() -> None:
    built = [random_case(seed) for seed in range(20)]
    again = [random_case(seed).build() for seed in range(20)]
    assert [case.build() for case in built] == again
    assert len({model.SerializeToString() for model in again}) == 20
    for case in built:
        for feed in case.feeds(2):
            assert run(case.build(), feed)


def test_graphs_are_of_many_kinds() -> None:
    models = [random_case(seed).build() for seed in range(200)]
    assert {model.opset_import[0].version for model in models} == set(range(9, 22))
    operators = {node.op_type for model in models for node in model.graph.node}
    assert {"Conv", "ConvTranspose", "MatMul", "Gemm", "If", "Softmax", "Concat", "Split", "Resize", "Pad"} <= operators
    assert {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16} == {
        model.graph.input[0].type.tensor_type.elem_type for model in models
    }
    assert any(len(model.graph.output) > 1 for model in models)
    reads = [[name for node in model.graph.node for name in set(node.input)] for model in models]
    assert any(names.count(t.name) > 1 for names, m in zip(reads, models, strict=True) for t in m.graph.initializer)


@pytest.fixture
def written(tmp_path: Path) -> onnx.ModelProto:
    """A right model, to be broken."""
    quantize_static(
        linear_bias(),
        tmp_path / "m.onnx",
        normals(8, {"x": (2, 3, 8)}),
        target=fuzz.EAGER,
        progress=lambda *_: None,
        verify=False,
    )
    return onnx.load(tmp_path / "m.onnx")


def faults(model: onnx.ModelProto, folder: Path) -> list[str]:
    path, feeds = folder / "m.onnx", normals(4, {"x": (2, 3, 8)})
    onnx.save(model, path)
    report = quantize_static(linear_bias(), folder / "other.onnx", feeds, verify=False, progress=lambda *_: None)
    return list(fuzz._faults(linear_bias(), path, feeds, report))


def test_a_wrong_scale_is_found(written: onnx.ModelProto, tmp_path: Path) -> None:
    assert faults(written, tmp_path) == []
    for tensor in written.graph.initializer:
        if tensor.name == "x_scale":
            scale = onnx.numpy_helper.to_array(tensor) / np.float32(2000)
            tensor.CopyFrom(onnx.numpy_helper.from_array(scale, tensor.name))
    assert any("output 'y' as it is has" in fault for fault in faults(written, tmp_path))


def test_a_node_that_does_not_keep_to_its_definition_is_found(
    written: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: array + 3 if array.dtype == np.uint8 else array for name, array in inner(model, feed).items()}

    inner = fuzz._inner
    monkeypatch.setattr(fuzz, "_inner", shifted)
    assert any("QuantizeLinear" in fault and "3.0 steps off" in fault for fault in faults(written, tmp_path))


def test_graphs_are_counted_and_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "run_apart", lambda first, count, tell, seconds: fuzz.run(first, count, tell))
    assert fuzz.main(["--graphs", "1", "--seed", "3"]) == 0
    printed = capsys.readouterr().out
    assert "1 graphs in" in printed
    assert printed.endswith("0 faults\n")


@pytest.mark.slow
def test_a_process_that_dies_is_a_fault_and_not_the_end() -> None:
    told: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fuzz, "run", _dying)
        patch.setattr(fuzz, "_CHUNK", 2)
        tally = fuzz.run_apart(0, 3, told.append)
    assert tally.faults == told == ["seed 1: the process died"]
    assert tally.plain == {"QDQ": 2}
    assert tally.graphs == 3
    assert fuzz.run_apart(0, 3, told.append, seconds=0) == fuzz.Tally()


def _dying(first: int, count: int) -> fuzz.Tally:
    if first <= 1 < first + count:
        os._exit(1)
    return fuzz.Tally(plain=Counter(QDQ=count), graphs=count)
