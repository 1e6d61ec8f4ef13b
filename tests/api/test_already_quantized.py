"""Models with quantized parts: kept and completed, or refused; quantizing twice changes nothing."""

from functools import partial

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.registry import load as load_cases
from vqonnx import QuantFormat, quantize_dynamic, quantize_static, quantize_weight_only
from vqonnx.errors import OptionError, UnsupportedModelError
from vqonnx.runtime.session import open_session

RNG = np.random.default_rng(0)
FEEDS = [{"x": RNG.normal(size=(1, 8, 8, 8)).astype(np.float32)} for _ in range(8)]


@pytest.fixture(scope="module")
def float_model(tmp_path_factory):
    """Two Convs with a residual Add, pooled, then a Gemm and a MatMul."""
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"], "relu1"),
        node("Conv", ["r1", "w2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        node("Add", ["c2", "r1"], ["a"], "add"),
        node("GlobalAveragePool", ["a"], ["g"], "pool"),
        node("Flatten", ["g"], ["f"], "flatten"),
        node("Gemm", ["f", "w3", "b1"], ["h"], "gemm", transB=1),
        node("Relu", ["h"], ["k"], "relu2"),
        node("MatMul", ["k", "w4"], ["y"], "matmul"),
    ]
    shapes = {"w1": (32, 8, 3, 3), "b1": (32,), "w2": (32, 32, 3, 3), "w3": (32, 32), "w4": (32, 16)}
    weights = [numpy_helper.from_array(RNG.normal(0, 0.1, s).astype(np.float32), name) for name, s in shapes.items()]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", ["N", 8, 8, 8]), ("y", ["N", 16]))
    ]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], weights)
    path = tmp_path_factory.mktemp("model") / "float.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


WAYS = {
    "static": partial(quantize_static, calibration_data_reader=FEEDS),
    "operators": partial(quantize_static, calibration_data_reader=FEEDS, quant_format=QuantFormat.QOperator),
    "dynamic": quantize_dynamic,
    "weights": quantize_weight_only,
    "blocks": partial(quantize_weight_only, format="qdq"),
}


@pytest.fixture(scope="module")
def quantized(float_model):
    """The model quantized in each way, once."""
    paths = {}
    for way, quantize in WAYS.items():
        paths[way] = float_model.with_name(f"{way}.onnx")
        quantize(float_model, paths[way])
    return paths


def ops(path):
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.parametrize("way", WAYS)
def test_quantizing_twice_changes_nothing(quantized, tmp_path, way):
    before = quantized[way].read_bytes()
    report = WAYS[way](quantized[way], tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == before == quantized[way].read_bytes()
    assert report.quantized == {}
    assert any("quantized already" in note for note in report.notes)
    assert any("quantized" in skip.reason for skip in report.skips)


@pytest.mark.parametrize(("first", "then"), [("static", "weights"), ("static", "dynamic"), ("operators", "static")])
def test_what_another_way_quantized_is_left(quantized, tmp_path, first, then):
    WAYS[then](quantized[first], tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == quantized[first].read_bytes()


@pytest.mark.parametrize("way", WAYS)
def test_quantized_models_are_refused_on_request(float_model, quantized, tmp_path, way):
    with pytest.raises(UnsupportedModelError, match=r"quantized already: it has \d+ x .*already_quantized='keep'"):
        WAYS[way](quantized[way], tmp_path / "out.onnx", already_quantized="refuse")
    with pytest.raises(OptionError, match="'again' is none of 'keep' and 'refuse'"):
        WAYS[way](float_model, tmp_path / "out.onnx", already_quantized="again")
    assert not any(tmp_path.iterdir())


def test_a_float_model_is_not_refused(float_model, tmp_path):
    report = quantize_weight_only(float_model, tmp_path / "out.onnx", already_quantized="refuse")
    assert report.quantized == {"Gemm": 1, "MatMul": 1}


def arrays(path):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def test_static_quantization_goes_on_with_the_codes_that_are_there(float_model, quantized, tmp_path):
    part, whole = tmp_path / "part.onnx", tmp_path / "whole.onnx"
    left_out = ["conv2", "add", "gemm", "matmul"]
    WAYS["static"](float_model, part, nodes_to_exclude=left_out, bias_correction="off")
    assert ops(part).count("QuantizeLinear") == 2
    report = WAYS["static"](part, whole, bias_correction="off")
    assert set(report.planned) >= set(left_out)
    assert sorted(ops(whole)) == sorted(ops(quantized["static"]))  # no pair behind a pair
    graph = onnx.load(whole).graph
    made = {output: node.op_type for node in graph.node for output in node.output}
    assert not any(
        made.get(node.input[0]) == "DequantizeLinear" for node in graph.node if node.op_type == "QuantizeLinear"
    )
    kept, now = arrays(part), arrays(whole)
    for name in ("w1_quantized", "w1_scale", "b1_quantized", "x_scale", "x_zero_point", "r1_scale"):
        np.testing.assert_array_equal(now[name], kept[name])
    expected, found = (open_session(path).run(None, FEEDS[0])[0] for path in (float_model, whole))
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)


def test_what_lies_before_a_pair_is_quantized_to_its_codes(float_model, tmp_path):
    """And its bias can be corrected, though the pair was there first."""
    part, whole = tmp_path / "part.onnx", tmp_path / "whole.onnx"
    WAYS["static"](float_model, part, nodes_to_exclude=["conv1", "relu1"], bias_correction="off")
    report = WAYS["static"](part, whole, bias_correction="on")
    assert report.quantized["Conv"] == 1
    assert report.bias_correction.kept
    kept, now = arrays(part), arrays(whole)
    (scale,) = {node.input[1] for node in onnx.load(part).graph.node if node.name.startswith("r1_Quantize")}
    assert kept[scale] in [array for name, array in now.items() if name.endswith("_scale") and array.size == 1]
    assert ops(whole).count("QuantizeLinear") == ops(part).count("QuantizeLinear") + 1  # that of the input
    expected, found = (open_session(path).run(None, FEEDS[0])[0] for path in (float_model, whole))
    assert np.linalg.norm(found - expected) < 0.1 * np.linalg.norm(expected)


def test_dynamic_and_weight_only_quantization_complete_what_is_missing(float_model, quantized, tmp_path):
    for way in ("dynamic", "weights"):
        part, whole = tmp_path / f"{way} part.onnx", tmp_path / f"{way} whole.onnx"
        WAYS[way](float_model, part, nodes_to_exclude=["gemm"])
        report = WAYS[way](part, whole)
        assert report.quantized == {"Gemm": 1}
        assert sorted(ops(whole)) == sorted(ops(quantized[way]))


def test_the_model_may_be_overwritten_by_itself(quantized, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(quantized["static"].read_bytes())
    WAYS["static"](path, path)
    assert path.read_bytes() == quantized["static"].read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_a_model_in_memory_and_its_data_file_are_kept_too(quantized, tmp_path):
    model = onnx.load(quantized["weights"])
    quantize_weight_only(model, tmp_path / "proto.onnx")
    onnx.save(model, tmp_path / "outside.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    quantize_weight_only(tmp_path / "outside.onnx", tmp_path / "copy.onnx")
    assert any(file.suffix == ".data" and file.name.startswith("copy.") for file in tmp_path.iterdir())
    for name in ("proto.onnx", "copy.onnx"):
        found = onnx.load(tmp_path / name)
        assert [node.SerializeToString() for node in found.graph.node] == [
            n.SerializeToString() for n in model.graph.node
        ]
        for tensor, expected in arrays(quantized["weights"]).items():
            np.testing.assert_array_equal(arrays(tmp_path / name)[tensor], expected)


CASES = {name: case for name, case in load_cases().items() if case.runnable}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["static", "operators", "dynamic", "weights"])
@pytest.mark.parametrize("name", CASES)
def test_quantizing_any_odd_model_twice_changes_nothing(name, way, tmp_path):
    quantize = WAYS[way]
    if way in ("static", "operators"):
        quantize = partial(quantize, calibration_data_reader=list(CASES[name].feeds(16)))
    onnx.save(CASES[name].build(), tmp_path / "float.onnx")
    try:
        report = quantize(tmp_path / "float.onnx", tmp_path / "first.onnx")
    except UnsupportedModelError:
        return  # nothing to quantize
    quantize(tmp_path / "first.onnx", tmp_path / "second.onnx")
    if report.quantized:
        assert (tmp_path / "second.onnx").read_bytes() == (tmp_path / "first.onnx").read_bytes()
