"""Comparing a float and a QDQ model, by onnxruntime's functions."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from vqonnx.compat import qdq_loss_debug as debug
from vqonnx.errors import SampleError

WEIGHT = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
FEEDS = [{"x": np.full((rows, 4), rows / 3, np.float32)} for rows in (1, 2)]


def save(path, nodes, constants):
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", size]) for name, size in (("x", 4), ("y", 3))
    ]
    graph = helper.make_graph(
        nodes, "graph", ends[:1], ends[1:], [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)
    return path


@pytest.fixture
def float_model(tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["h"]),
        helper.make_node("MatMul", ["h", "W"], ["m"]),
        helper.make_node("Relu", ["m"], ["y"]),
    ]
    return save(tmp_path / "float.onnx", nodes, {"W": WEIGHT})


def pair(source, base, after=None):
    codes = [f"{base}_codes"]
    return [
        helper.make_node("QuantizeLinear", [source, "scale", "zero"], codes),
        helper.make_node("DequantizeLinear", [*codes, "scale", "zero"], [after or f"{base}_DequantizeLinear_Output"]),
    ]


@pytest.fixture(params=["one", "channel", "block"])
def qdq_model(request, tmp_path):
    """The last Relu is gone: the range of y clips as it did."""
    size = {"one": 12, "channel": 4, "block": 2}[request.param]
    shape, attributes = {
        "one": ((), {}),
        "channel": ((3,), {"axis": 1}),
        "block": ((2, 3), {"axis": 0, "block_size": 2}),
    }[request.param]
    scale = np.full(shape, 1 / 64 / size, np.float32)
    spread = scale.repeat(2, axis=0) if request.param == "block" else scale
    codes = np.clip(np.rint(WEIGHT / spread), -128, 127).astype(np.int8)
    weight = helper.make_node(
        "DequantizeLinear", ["W_quantized", "W_scale"], ["W_DequantizeLinear_Output"], **attributes
    )
    nodes = [
        *pair("x", "x"),
        helper.make_node("Relu", ["x_DequantizeLinear_Output"], ["h"]),
        *pair("h", "h"),
        weight,
        helper.make_node("MatMul", ["h_DequantizeLinear_Output", weight.output[0]], ["m"]),
        *pair("m", "y", "y"),
    ]
    constants = {"W_quantized": codes, "W_scale": scale, "scale": np.float32(1 / 100), "zero": np.uint8(0)}
    return save(tmp_path / "qdq.onnx", nodes, constants), codes * spread


def activations(path):
    augmented = path.with_name(f"augmented {path.name}")
    debug.modify_model_output_intermediate_tensors(path, augmented)
    return debug.collect_activations(augmented, FEEDS)


def test_every_float_tensor_inside_is_collected(float_model):
    found = activations(float_model)
    assert list(found) == ["x", "h", "m", "y"]
    for feed, h, m in zip(FEEDS, found["h"], found["m"], strict=True):
        np.testing.assert_array_equal(h, feed["x"].ravel())
        np.testing.assert_allclose(m, (feed["x"] @ WEIGHT).ravel(), rtol=1e-5, atol=1e-6)


def test_pairs_are_matched_inside_and_at_the_outputs(float_model, qdq_model):
    matched = debug.create_activation_matching(activations(qdq_model[0]), activations(float_model))
    assert set(matched) == {"x", "h", "y"}
    for ends in matched.values():
        assert set(ends) == {"pre_qdq", "post_qdq", "float"}
        for before, after in zip(ends["pre_qdq"], ends["post_qdq"], strict=True):
            np.testing.assert_allclose(after, np.clip(np.rint(before * 100), 0, 255) / 100, rtol=1e-6)
    errors = debug.compute_activation_error(matched)
    assert errors["x"] == {"qdq_err": pytest.approx(errors["x"]["xmodel_err"]), "xmodel_err": errors["x"]["xmodel_err"]}
    assert 30 < errors["x"]["qdq_err"] < 60


def test_without_a_float_model_only_the_pairs_are_compared(qdq_model):
    matched = debug.create_activation_matching(activations(qdq_model[0]))
    assert {tuple(errors) for errors in debug.compute_activation_error(matched).values()} == {("qdq_err",)}


def test_weights_of_every_granularity_are_matched(float_model, qdq_model):
    path, expected = qdq_model
    matched = debug.create_weight_matching(float_model, path)
    assert list(matched) == ["W"]
    np.testing.assert_array_equal(matched["W"]["float"], WEIGHT)
    np.testing.assert_allclose(matched["W"]["dequantized"], expected, rtol=1e-6)
    assert debug.compute_weight_error(matched)["W"] == pytest.approx(
        20 * np.log10(np.linalg.norm(WEIGHT) / np.linalg.norm(WEIGHT - expected)), abs=1e-3
    )


def test_a_weight_that_the_float_model_lacks_is_told(qdq_model, caplog):
    assert debug.create_weight_matching(qdq_model[0], qdq_model[0]) == {}
    assert "no constant 'W'" in caplog.text


def test_noise_is_measured_over_arrays_of_any_shapes():
    ratio = debug.compute_signal_to_quantization_noice_ratio
    assert ratio([np.ones(4), np.ones((2, 3))], [np.ones(4), np.full((2, 3), 0.9)]) == pytest.approx(
        10 * np.log10(10 / 0.06)
    )
    assert ratio(np.ones(4, np.float32), np.ones(4, np.float32)) == pytest.approx(20 * np.log10(2 / 2.0**-52))
    for y in ([np.ones(4)] * 2, np.ones(5)):
        with pytest.raises(RuntimeError, match="cannot be compared"):
            ratio(np.ones(4), y)


def test_no_sample_is_an_error(float_model):
    debug.modify_model_output_intermediate_tensors(float_model, float_model.with_name("a.onnx"), ["MatMul"], True)
    with pytest.raises(SampleError):
        debug.collect_activations(float_model.with_name("a.onnx"), [])
