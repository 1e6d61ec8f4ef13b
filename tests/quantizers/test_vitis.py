"""AMD's quantizer classes: every type against a simulation in float64, and the methods that users override."""

from pathlib import Path

import numpy as np
import pytest

from tests.ops.running import extensions
from tests.quantizers.flow import ops, sqnr
from tests.quantizers.vitis_models import FLOATS, SAMPLES, blocks, cast, network, rounding_of, simulate, written
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
