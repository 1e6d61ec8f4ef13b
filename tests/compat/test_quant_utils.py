"""vqonnx.compat.quant_utils against onnxruntime's own, and against ONNX's reference where that is wrong."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.versions import since
from vqonnx.compat import quant_utils
from vqonnx.errors import OptionError, QuantRangeError
from vqonnx.quantizers.types import QuantType

peer: Any = pytest.importorskip("onnxruntime.quantization.quant_utils")

TYPES = [
    TensorProto.INT8,
    TensorProto.UINT8,
    TensorProto.INT16,
    TensorProto.UINT16,
    TensorProto.INT4,
    TensorProto.UINT4,
]
ENDS = st.floats(-1e6, 1e6, width=32)


@pytest.mark.parametrize("number", TYPES)
@pytest.mark.parametrize("flags", [(False, False), (True, False), (False, True), (True, True)])
def test_the_codes_of_a_type_are_the_peers(number: int, flags: tuple[bool, bool]) -> None:
    ours, theirs = quant_utils.get_qmin_qmax_for_qType(number, *flags), peer.get_qmin_qmax_for_qType(number, *flags)
    assert [(int(end), end.dtype) for end in ours] == [(int(end), end.dtype) for end in theirs]


@given(ENDS, ENDS, st.booleans(), st.sampled_from([None, 0.5]), st.sampled_from(TYPES[:4]))
def test_scales_and_zero_points_are_the_peers(
    one: float, two: float, symmetric: bool, least: float | None, number: int
) -> None:
    low, high = np.float32(min(one, two)), np.float32(max(one, two))
    codes = quant_utils.get_qmin_qmax_for_qType(number, symmetric=symmetric)
    zero, scale = quant_utils.compute_scale_zp(low, high, *codes, symmetric, least)
    expected_zero, expected_scale = peer.compute_scale_zp(low, high, *codes, symmetric, least)
    assert (zero, zero.dtype, scale.dtype) == (expected_zero, expected_zero.dtype, expected_scale.dtype)
    assert scale == pytest.approx(expected_scale, rel=1e-6)


@given(ENDS, ENDS, st.sampled_from([None, 0.25]))
def test_snapped_zero_points_cover_the_range(one: float, two: float, least: float | None) -> None:
    since("1.31", "snap_zero_point_to_uint8")
    low, high = min(one, two), max(one, two)
    zero, scale = quant_utils.snap_zero_point_to_uint8(low, high, min_real_range=least)
    expected_zero, expected_scale = peer.snap_zero_point_to_uint8(low, high, min_real_range=least)
    assert zero == expected_zero
    if least is None:  # the peer raises the scale by another rule
        assert scale == pytest.approx(expected_scale, rel=1e-5)
    step = float(scale) * (1 + 1e-6)
    assert -int(zero) * step <= min(low, 0)
    assert max(high, 0) <= (255 - int(zero)) * step


def test_ends_that_are_not_finite_have_no_scale() -> None:
    with pytest.raises(QuantRangeError, match="must be finite"):
        quant_utils.compute_scale_zp(np.float32(np.nan), np.float32(1), np.int8(-128), np.int8(127))
    with pytest.raises(OptionError, match="codes must hold 0"):
        quant_utils.compute_scale_zp(np.float32(0), np.float32(1), np.uint8(1), np.uint8(255))


@pytest.mark.parametrize("number", [*TYPES, TensorProto.FLOAT8E4M3FN])
def test_codes_of_an_array_are_those_of_quantize_linear(number: int) -> None:
    if number == TensorProto.FLOAT8E4M3FN:
        since("1.31", "the scale that float8 gets")
    data = np.random.default_rng(3).normal(size=(4, 6)).astype(np.float32)
    zero, scale, codes = quant_utils.quantize_data(data, number, symmetric=number == TensorProto.INT8)
    expected_zero, expected_scale, _ = peer.quantize_data(data, number, symmetric=number == TensorProto.INT8)
    assert scale == pytest.approx(expected_scale, rel=1e-6)
    assert np.asarray(zero).astype(np.float32) == np.asarray(expected_zero).astype(np.float32)
    node = helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "scale")]
    zero_input = helper.make_tensor_value_info("zero", number, None)
    result = helper.make_tensor_value_info("y", number, None)
    graph = helper.make_graph([node], "g", [*inputs, zero_input], [result])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    expected = ReferenceEvaluator(made).run(None, {"x": data, "scale": scale, "zero": zero})[0]
    np.testing.assert_array_equal(codes.astype(np.float32), np.asarray(expected).astype(np.float32))


@pytest.mark.parametrize(("axis", "block"), [(None, 0), (0, 0), (1, 4)])
@pytest.mark.parametrize("number", [TensorProto.INT8, TensorProto.UINT4])
def test_codes_of_an_initializer_are_the_peers(number: int, axis: int | None, block: int) -> None:
    since("1.31", "quantize_onnx_initializer in blocks")
    weight = np.random.default_rng(4).normal(size=(3, 9)).astype(np.float32)
    tensor = numpy_helper.from_array(weight, "w")
    if block:
        zero, scale = quant_utils.compute_scale_zp_blocked(weight, number, 1, block, symmetric=False)
        expected_zero, expected_scale = peer.compute_scale_zp_blocked(weight, number, 1, block, symmetric=False)
        np.testing.assert_allclose(scale, expected_scale, rtol=1e-6)
        np.testing.assert_array_equal(zero.astype(int), expected_zero.astype(int))
    else:
        qtype = ml_dtypes.uint4 if number == TensorProto.UINT4 else np.int8
        shape = () if axis is None else (3,)
        zero, scale = np.full(shape, 3, qtype), np.full(shape, 0.25, np.float32)
    given = (tensor, number, zero, scale, axis)
    ours, theirs = (one.quantize_onnx_initializer(*given, block_size=block) for one in (quant_utils, peer))
    assert ours.SerializeToString() == theirs.SerializeToString()


def test_blocks_are_for_matrices() -> None:
    with pytest.raises(NotImplementedError, match="blocks are for matrices"):
        quant_utils.compute_scale_zp_blocked(np.ones((2, 2, 2), np.float32), TensorProto.INT8, 0, 2, symmetric=True)


@given(st.binary(max_size=9))
def test_packed_codes_come_two_a_byte(data: bytes) -> None:
    assert quant_utils.pack_bytes_to_4bit(data) == peer.pack_bytes_to_4bit(data)


def test_shapes_are_inferred_without_files_beside_the_model(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [numpy_helper.from_array(np.ones(1024, np.float32)[:4], "w")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path, theirs = tmp_path / "m.onnx", tmp_path / "m-inferred.onnx"
    onnx.save(made, path, save_as_external_data=True, size_threshold=0)
    theirs.write_text("the user's")
    found = quant_utils.load_model_with_shape_infer(path)
    assert quant_utils.model_has_infer_metadata(found)
    assert not quant_utils.model_has_infer_metadata(made)
    assert "h" in [value.name for value in found.graph.value_info]
    assert theirs.read_text() == "the user's"


@pytest.mark.parametrize(
    ("arguments", "opset"),
    [
        ({"weight_type": QuantType.QInt8}, 13),
        ({"weight_type": TensorProto.INT16}, 21),
        ({"weight_type": QuantType.QInt8, "block_size": 16}, 21),
        ({"weight_type": QuantType.QFLOAT8E4M3FN}, 19),
        ({"weight_type": QuantType.QInt8, "tensor_quant_overrides": {"w": [{"quant_type": QuantType.QUInt16}]}}, 21),
    ],
)
def test_the_opset_follows_the_types(arguments: dict[str, Any], opset: int) -> None:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    found = quant_utils.update_opset_version(made, **arguments)
    assert quant_utils.get_opset_version(found) == opset
    assert (found is made) is (opset == 13)


def test_smoothed_distributions_have_no_empty_bins() -> None:
    counts = np.array([0.0, 0.5, 0.0, 0.5])
    np.testing.assert_allclose(quant_utils.smooth_distribution(counts), peer.smooth_distribution(counts))
    assert quant_utils.smooth_distribution(np.zeros(3)) is None
