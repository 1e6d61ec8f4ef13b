"""``convert_weights`` from file to file: streaming, atomic, and honest about what stays."""

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.build import build
from models.registry import load as load_cases
from tests.emitters.weights.packing import SQNR, Form, pack_model, run, sqnr
from tests.emitters.weights.test_matmul_nbits import normal, product
from tests.stages.weights.test_convert import equal_bits, packed_blocks
from vqonnx.api.convert import Conversion, convert_weights
from vqonnx.errors import ModelError, OptionError, OutputError, UnsupportedModelError, VerificationError
from vqonnx.graph.io import load, save
from vqonnx.graph.proto import to_proto

CASES = load_cases()


def written(packed, path: Path, **options) -> Path:
    save(packed.model, path, **options)
    return path


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("to", ["qdq", "matmul_nbits"])
def test_a_file_is_converted_and_back_without_a_changed_bit(rng, tmp_path, to, external):
    first, back = (Form.MATMUL_NBITS, "matmul_nbits") if to == "qdq" else (Form.QDQ, "qdq")
    source = written(pack_model(product(normal(rng, 200, 64), opset=21), first), tmp_path / "a.onnx", external=external)
    before = source.read_bytes()
    done = convert_weights(source, tmp_path / "b.onnx", to=to)
    again = convert_weights(str(tmp_path / "b.onnx"), tmp_path / "c.onnx", to=back)
    assert source.read_bytes() == before
    assert done == Conversion(to=to, nodes=done.nodes, kept=(), size=done.size, loaded=True)
    assert done.nodes == again.nodes
    assert len(done.nodes) == 1
    files = list(tmp_path.iterdir())
    assert len(files) == (6 if external else 3)  # beside a data file, converted models get one too
    assert done.size == sum(file.stat().st_size for file in files if file.name.startswith("b."))
    start, end = (packed_blocks(load(tmp_path / f"{name}.onnx")) for name in "ac")
    assert all(equal_bits(start[name], end[name]) for name in start)


@pytest.mark.parametrize("external", [False, True])
def test_input_and_output_may_be_the_same_path(rng, tmp_path, external):
    path = written(pack_model(product(normal(rng, 200, 64)), Form.MATMUL_NBITS), tmp_path / "m.onnx", external=external)
    feed = {"x": normal(rng, 1, 5, 200)}
    before = run(load(path), feed)["y"]
    convert_weights(path, path, to="qdq")
    assert sqnr(before, run(load(path), feed)["y"]) > SQNR[4]
    assert {node.op_type for node in load(path).graph} == {"DequantizeLinear", "MatMul"}


@pytest.mark.parametrize("kind", ["proto", "ir"])
def test_the_model_may_be_an_object(rng, tmp_path, kind):
    packed = pack_model(product(normal(rng, 64, 8)), Form.MATMUL_NBITS)
    model = to_proto(packed.model) if kind == "proto" else packed.model
    convert_weights(model, tmp_path / "m.onnx", to="qdq")
    assert packed.ops() == ["MatMulNBits"]
    assert "MatMul" in {node.op_type for node in load(tmp_path / "m.onnx").graph}


def test_what_stays_is_told_with_its_reason(tmp_path):
    path = written(pack_model(CASES["weights/tied"].build()), tmp_path / "m.onnx")
    done = convert_weights(path, tmp_path / "q.onnx", to="qdq")
    (((op_type, reason), count),) = done.reasons.items()
    assert op_type == "GatherBlockQuantized"
    assert reason == "GatherBlockQuantized has no form with DequantizeLinear that ONNX Runtime fuses."
    assert count == len(done.kept) > 0
    (feed,) = CASES["weights/tied"].feeds(1)
    before, after = run(load(path), feed), run(load(tmp_path / "q.onnx"), feed)
    assert all(sqnr(before[name], after[name]) > 35 for name in before)


@pytest.mark.slow
def test_one_weight_at_a_time_is_in_memory(rng, tmp_path):
    k, count = 512, 24
    weights = {f"w{i}": normal(rng, k, k) for i in range(count)}
    body = " ".join(f"h{i + 1} = MatMul (h{i}, w{i})" for i in range(count))
    source = build(f"chain (float[N, {k}] h0) => (float[N, {k}] h{count}) {{ {body} }}", weights, opset=21)
    del weights
    for first, to in ((Form.QDQ, "matmul_nbits"), (Form.MATMUL_NBITS, "qdq")):
        path = written(pack_model(source, first), tmp_path / f"{to}.onnx", external=True)
        peaks = []
        for _ in range(2):  # the first may also compile
            tracemalloc.start()
            convert_weights(path, tmp_path / "out.onnx", to=to, verify="checker")
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert min(peaks) < 10 * k * k  # on the way a weight is unpacked and copied; all of them unpacked are 24 k^2


@pytest.mark.parametrize(("verify", "loaded"), [(True, True), ("checker", False), (False, False)])
def test_loading_is_optional(rng, tmp_path, verify, loaded):
    path = written(pack_model(product(normal(rng, 64, 8))), tmp_path / "m.onnx")
    assert convert_weights(path, tmp_path / "q.onnx", to="qdq", verify=verify).loaded == loaded


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"to": "qdqq"}, OptionError, r"'qdqq' is none of qdq, matmul_nbits \(did you mean 'qdq'\?\)"),
        ({"to": "qdq", "accuracy_level": 5}, OptionError, r"accuracy_level must lie in 0\.\.4, got 5"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(rng, tmp_path, options, error, text):
    with pytest.raises(error, match=text):
        convert_weights(product(normal(rng, 64, 8)), tmp_path / "q.onnx", **options)


def test_nothing_to_convert_is_an_error_and_nothing_is_written(rng, tmp_path):
    with pytest.raises(UnsupportedModelError, match="no packed weight"):
        convert_weights(product(normal(rng, 64, 8)), tmp_path / "q.onnx", to="qdq")
    with pytest.raises(ModelError, match="cannot read model"):
        convert_weights(tmp_path / "none.onnx", tmp_path / "q.onnx", to="qdq")
    with pytest.raises(OutputError, match="does not exist"):
        convert_weights(product(normal(rng, 64, 8)), tmp_path / "no" / "q.onnx", to="qdq")
    assert not list(tmp_path.iterdir())


def test_a_result_that_differs_is_not_saved(rng, tmp_path, monkeypatch):
    path = written(pack_model(product(normal(rng, 64, 8))), tmp_path / "m.onnx")
    before = path.read_bytes()
    zeros = np.zeros(64 * 8 // 2, np.uint8)
    monkeypatch.setattr("vqonnx.emitters.weights.block_qdq.k_major_codes", lambda blocks: zeros)
    with pytest.raises(VerificationError, match="not what it was before the conversion"):
        convert_weights(path, path, to="qdq")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_result_that_does_not_load_is_not_saved(rng, tmp_path):
    packed = pack_model(product(normal(rng, 64, 8)))
    node = ir.node("Nothing", [packed.model.graph.inputs[0]], domain="no.such", name="bad")
    packed.model.graph.append(node)
    node.outputs[0].name, node.outputs[0].dtype = "nothing", ir.DataType.FLOAT
    packed.model.graph.outputs.append(node.outputs[0])
    packed.model.opset_imports["no.such"] = 1
    path = written(packed, tmp_path / "m.onnx")
    with pytest.raises(VerificationError, match="Nothing"):
        convert_weights(path, tmp_path / "q.onnx", to="qdq")
    assert list(tmp_path.iterdir()) == [path]
    assert not convert_weights(path, tmp_path / "q.onnx", to="qdq", verify="checker").loaded


def test_the_result_is_valid_onnx(rng, tmp_path):
    path = written(pack_model(product(normal(rng, 64, 8), opset=13)), tmp_path / "m.onnx")
    convert_weights(path, tmp_path / "q.onnx", to="qdq")
    onnx.checker.check_model(tmp_path / "q.onnx", full_check=True)
