"""AMD's quantizer classes: every type against a simulation in float64, and the methods that users override."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import vqonnx
from tests.ops.running import extensions
from tests.quantizers.flow import constants, ops, sqnr
from tests.quantizers.vitis_models import FLOATS, SAMPLES, blocks, cast, network, rounding_of, simulate, written
from vqonnx import VitisQDQQuantizer
from vqonnx.errors import DependencyError
from vqonnx.runtime.session import open_session

TENSORS = ("x", "h", "s", "t", "g", "v", "y")
WEIGHTS = ("a", "c", "f")
BIASES = ("ab", "cb", "fb")
X = np.concatenate([feed["x"] for feed in SAMPLES])
FLOAT = simulate(X, {})
SINGLE_DB = 80.0
"""From here on it is ONNX Runtime's float32 that differs from float64."""


def assert_computes(path: Path, rounding) -> None:
    """ONNX Runtime's outputs of the model are those of the simulation: as far from float, and near each other."""
    actual, expected = open_session(path).run(None, {"x": X})[0], simulate(X, rounding)
    if sqnr(FLOAT, expected) < SINGLE_DB:
        assert abs(sqnr(FLOAT, actual) - sqnr(FLOAT, expected)) < 0.1
    assert sqnr(expected, actual) > min(sqnr(FLOAT, actual) + 8, SINGLE_DB)


@pytest.mark.parametrize(
    ("activation", "weight"),
    [
        ("QInt8", "QInt8"), ("QUInt8", "QUInt8"), ("QInt16", "QInt8"), ("QUInt16", "QInt16"), ("QInt32", "QInt32"),
        ("QUInt32", "QUInt32"), ("QInt8", "QInt32"), ("QFLOAT8E4M3FN", "QFLOAT8E4M3FN"),
        ("QFLOAT8E5M2", "QFLOAT8E5M2"), ("QInt8", "QFLOAT8E4M3FN"), ("QFLOAT8E4M3FN", "QInt8"),
    ],
)  # fmt: skip
def test_types_with_scales(tmp_path, activation, weight):
    if "32" in activation + weight:
        extensions()
    path = tmp_path / "m.onnx"
    model = written(path, activation_type=activation, weight_type=weight)
    biases = () if "FLOAT" in activation + weight else BIASES
    rounding = rounding_of(model, (*TENSORS, *WEIGHTS, *biases))
    assert set(rounding) == {*TENSORS, *WEIGHTS, *biases}
    assert_computes(path, rounding)


@pytest.mark.parametrize("name", ["QFloat16", "QBFloat16"])
def test_16_bit_floats_are_pairs_of_casts(tmp_path, name):
    path = tmp_path / "m.onnx"
    model = written(path, activation_type=name, weight_type=name)
    assert set(ops(model)) == {"Cast", *(node.op_type for node in network().graph.node)}
    assert_computes(path, dict.fromkeys((*TENSORS, *WEIGHTS, *BIASES), cast(FLOATS[name])))


@pytest.mark.parametrize(
    "name",
    ["bfp16", "mx9", "mx6", "mx4", "mxfp8_e5m2", "mxfp8_e4m3", "mxfp6_e3m2", "mxfp6_e2m3", "mxfp4_e2m1", "mxint8"],
)
def test_block_formats_are_one_node_a_tensor_and_biases_stay_float(tmp_path, name):
    extensions()
    path = tmp_path / "m.onnx"
    model = written(path, activation_type=f"Q{name}", weight_type=f"Q{name}")
    assert sum(op in ("BFPQuantizeDequantize", "MXQuantizeDequantize") for op in ops(model)) == len(TENSORS + WEIGHTS)
    assert_computes(path, dict.fromkeys((*TENSORS, *WEIGHTS), blocks(name)))


@pytest.mark.parametrize("name", ["bfp16", "mx4"])
@pytest.mark.parametrize("how", ["on", "fast"])
def test_float_biases_beside_blocks_are_corrected(tmp_path, name, how):
    """The means of a layer's outputs come nearer to float: with 3 bits, by much."""
    extensions()
    errors = []
    for way in ("off", how):
        path = tmp_path / f"{way}.onnx"
        written(path, activation_type=f"Q{name}", weight_type=f"Q{name}", bias_correction=way, verify=True)
        errors.append(np.abs((open_session(path).run(None, {"x": X})[0] - FLOAT).mean(axis=0)).mean())
    assert errors[1] < errors[0] * (0.7 if name == "mx4" else 1.0)


def test_an_operator_in_16_bits_reads_converted_codes(tmp_path):
    path = tmp_path / "m.onnx"
    layers = {"op:Gemm": {"activation_type": "QInt16", "weight_type": "QInt16"}}
    model = written(path, extra_options={"LayerTypes": layers})
    rounding = rounding_of(model, (*TENSORS, *WEIGHTS, *BIASES, "v_int16"))
    rounding["v_read"] = rounding.pop("v_int16")
    ends = {"g_zero_point": np.int8, "v_zero_point_convert": np.int16, "y_zero_point": np.int16}
    ends |= {"f_zero_point": np.int16, "c_zero_point": np.int8}
    assert {name: constants(model)[name].dtype for name in ends} == ends
    assert_computes(path, rounding)


def test_a_node_in_blocks_stands_between_converting_pairs(tmp_path):
    extensions()
    path = tmp_path / "m.onnx"
    layers = {"Conv_2": {"activation_type": "QBFP16", "weight_type": "QBFP16"}}
    model = written(path, extra_options={"LayerTypes": layers})
    rounding = rounding_of(model, (*TENSORS, *WEIGHTS, "ab", "fb", "s_int8"))
    assert not {"s", "c"} & set(rounding)
    blocked = dict.fromkeys(("s", "c", "h_read"), blocks("bfp16"))
    assert_computes(path, {**rounding, **blocked, "s_read": rounding.pop("s_int8")})


def test_a_single_tensor_has_the_type_that_is_given_for_it(tmp_path):
    path = tmp_path / "m.onnx"
    model = written(path, quantized_tensor_type={"t": "QInt16", "c": "QInt4"}, quantizer=VitisQDQQuantizer)
    found = constants(model)
    assert found["t_zero_point"].dtype == np.int16
    assert next(one for one in model.graph.initializer if one.name == "c_quantized").data_type == onnx.TensorProto.INT4
    assert_computes(path, rounding_of(model, (*TENSORS, "a", "f", *BIASES)) | {"c": int4(found["c_scale"])})


def int4(scale):
    return lambda values, axis: np.clip(np.rint(values / float(scale)), -7, 7) * float(scale)


def test_without_the_extensions_models_are_written_unseen_or_the_way_out_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime_extensions", None)
    types = {"activation_type": "QMX9", "weight_type": "QMX9"}
    assert "BFPQuantizeDequantize" in ops(written(tmp_path / "m.onnx", **types))
    with pytest.raises(DependencyError, match=r"pip install vqonnx\[vitis\].*verify='checker'") as caught:
        written(tmp_path / "n.onnx", verify=True, **types)
    assert caught.value.package == "onnxruntime-extensions"
    assert not (tmp_path / "n.onnx").exists()


def test_written_models_run_in_anyones_session_after_register(tmp_path):
    extensions()
    path = tmp_path / "m.onnx"
    written(path, activation_type="QMXFP8_E4M3", weight_type="QInt32")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with pytest.raises(Exception, match=r"com\.amd\.quark"):
        onnxruntime.InferenceSession(str(path), options)
    vqonnx.ops.register(options)
    found = onnxruntime.InferenceSession(str(path), options).run(None, {"x": X})[0]
    np.testing.assert_array_equal(found, open_session(path).run(None, {"x": X})[0])
