import ml_dtypes
import numpy as np
import onnx.parser
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx.reference import ReferenceEvaluator

from vqonnx.core.granularity import PerAxis, PerBlock, PerTensor
from vqonnx.core.params import QuantParams
from vqonnx.core.qtype import FLOAT8E4M3FN, FLOAT8E5M2, INT4, INT8, INT16, INT32, QTYPES, UINT4, UINT8, UINT16, UINT32
from vqonnx.core.spec import QuantSpec, ScaleGrid
from vqonnx.errors import OptionError, QuantRangeError
from vqonnx.kernels import affine
from vqonnx.kernels.affine import affine_params, block_ranges, dequantize, quantize, round_to_nearest

REALS = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=3, max_side=9),
    elements=st.floats(-(2.0**40), 2.0**40, width=32),
)
SPECS = st.builds(
    QuantSpec,
    qtype=st.sampled_from([INT4, UINT4, INT8, UINT8, INT16, UINT16]),
    symmetric=st.booleans(),
    granularity=st.sampled_from([PerTensor(), PerAxis(0), PerAxis(-1), PerBlock(1, 4), PerBlock(0, 3)]),
)


@given(x=REALS, spec=SPECS)
def test_no_value_moves_by_more_than_half_a_step(x, spec):
    quantized = round_to_nearest(x, spec)
    scale = spec.granularity.expand(quantized.params.scale, x.shape)
    error = np.abs(dequantize(quantized.codes, quantized.params) - x)
    assert (error <= 0.5001 * scale + 1e-6 * np.abs(x)).all()


@given(x=REALS, spec=SPECS)
def test_params_are_usable_and_zero_is_exact(x, spec):
    params = round_to_nearest(x, spec).params
    assert np.isfinite(params.scale).all()
    assert (params.scale > 0).all()
    zero = np.zeros(x.shape, np.float32)
    np.testing.assert_array_equal(dequantize(quantize(zero, params), params), zero)


@given(x=REALS, spec=SPECS)
def test_quantizing_twice_changes_nothing(x, spec):
    params = round_to_nearest(x, spec).params
    once = dequantize(quantize(x, params), params)
    np.testing.assert_array_equal(quantize(once, params), quantize(x, params))


@given(x=REALS, granularity=st.sampled_from([PerTensor(), PerAxis(1), PerBlock(1, 4), PerBlock(0, 2)]))
def test_block_ranges_equal_brute_force(x, granularity):
    spec = QuantSpec(qtype=INT8, granularity=granularity)
    low, high = block_ranges(x, spec)
    assert low.shape == granularity.scale_shape(x.shape)
    spread_low, spread_high = granularity.expand(low, x.shape), granularity.expand(high, x.shape)
    assert (spread_low <= x).all()
    assert (spread_high >= x).all()
    assert set(low.ravel()) | set(high.ravel()) <= set(x.astype(np.float64).ravel())


@pytest.mark.parametrize(
    ("qtype", "proto"),
    [(INT8, "int8"), (UINT8, "uint8"), (INT16, "int16"), (UINT16, "uint16"), (INT4, "int4")],
)
@pytest.mark.parametrize("symmetric", [True, False])
def test_quantize_agrees_with_onnx_quantize_linear(qtype, proto, symmetric):
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    params = affine_params(x.min(), x.max(), QuantSpec(qtype=qtype, symmetric=symmetric))
    model = onnx.parser.parse_model(
        f'<ir_version: 10, opset_import: ["": 21]> g (float[N] x, float s, {proto} z) => ({proto}[N] q, float[N] y) '
        "{ q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }"
    )
    expected, real = ReferenceEvaluator(model).run(None, {"x": x, "s": params.scale, "z": params.zero_point})
    if symmetric:  # ONNX knows no restricted range; nothing but the lowest code may differ
        expected = np.maximum(expected.astype(np.int32), params.spec.qmin).astype(qtype.dtype)
        real = None
    np.testing.assert_array_equal(quantize(x, params).astype(np.int32), np.asarray(expected).astype(np.int32))
    if real is not None:
        np.testing.assert_allclose(dequantize(quantize(x, params), params), real, rtol=1e-6)


def test_a_tensor_of_zeros_gets_the_scale_one():
    params = affine_params(0.0, 0.0, QuantSpec(qtype=UINT8))
    assert params.scale == 1
    assert params.zero_point == 0


def test_a_constant_keeps_its_value():
    spec = QuantSpec(qtype=UINT8)
    for constant in (3.7, -3.7):
        quantized = round_to_nearest(np.full((2, 2), constant, np.float32), spec)
        np.testing.assert_allclose(dequantize(quantized.codes, quantized.params), constant, rtol=1e-6)


def test_reduced_range_uses_seven_bits():
    weight = np.linspace(-1, 1, 100, dtype=np.float32)
    spec = QuantSpec(qtype=INT8, symmetric=True, reduce_range=True)
    assert np.abs(round_to_nearest(weight, spec).codes).max() == 64


def test_float16_weights_of_tiny_size_do_not_collapse():
    weight = (np.random.default_rng(0).normal(size=(64, 64)) * 1e-3).astype(np.float16)
    spec = QuantSpec(qtype=INT8, symmetric=True, granularity=PerAxis(0))
    quantized = round_to_nearest(weight, spec, np.float16)
    error = dequantize(quantized.codes, quantized.params).astype(np.float64) - weight
    assert quantized.params.scale.dtype == np.float16
    assert (error**2).sum() < 1e-3 * (weight.astype(np.float64) ** 2).sum()


@pytest.mark.parametrize("tiny", [1e-44, 1e-39, 1e-36])
def test_scales_are_never_denormal(tiny):
    params = affine_params(0.0, tiny, QuantSpec(qtype=UINT8))
    assert params.scale >= np.finfo(np.float32).tiny


def test_the_whole_of_float32_has_a_finite_scale():
    huge = float(np.finfo(np.float32).max)
    assert np.isfinite(affine_params(-huge, huge, QuantSpec(qtype=UINT8)).scale)


@given(high=st.floats(1e-6, 1e6))
def test_power_of_two_scales_cover_the_range(high):
    spec = QuantSpec(qtype=INT8, symmetric=True, grid=ScaleGrid.POWER_OF_TWO)
    params = affine_params(-high, high, spec)
    assert np.log2(params.scale) == np.rint(np.log2(params.scale))
    assert params.scale * 127 >= high * (1 - 1e-6)


@pytest.mark.parametrize(("low", "high"), [(np.nan, 1), (-np.inf, 1), (2, 1)])
def test_bad_ranges_are_refused(low, high):
    with pytest.raises(QuantRangeError, match="a range must"):
        affine_params(low, high, QuantSpec(qtype=UINT8))


def test_nan_weights_are_refused():
    with pytest.raises(QuantRangeError, match="NaN or infinite"):
        round_to_nearest(np.array([1, np.nan], np.float32), QuantSpec(qtype=INT8))


def test_empty_weights_have_parameters():
    quantized = round_to_nearest(np.zeros((0, 4), np.float32), QuantSpec(qtype=INT8, granularity=PerAxis(1)))
    assert quantized.codes.shape == (0, 4)
    assert quantized.params.scale.shape == (4,)


def test_int4_codes_are_int4():
    assert round_to_nearest(np.ones(3, np.float32), QuantSpec(qtype=INT4)).codes.dtype == ml_dtypes.int4


@pytest.mark.parametrize("qtype", [INT32, UINT32], ids=lambda qtype: qtype.name)
def test_codes_of_32_bits_are_exact_and_saturate(qtype):
    middle = 2**30 + 1  # no float32
    params = QuantParams(np.array(1, np.float32), np.array(middle, qtype.dtype), QuantSpec(qtype=qtype))
    x = np.array([0, 1, -1.5, -2.5, 2.0**40, -(2.0**40), np.inf, -np.inf], np.float32)
    expected = [middle, middle + 1, middle - 2, middle - 2, qtype.qmax, qtype.qmin, qtype.qmax, qtype.qmin]
    np.testing.assert_array_equal(quantize(x, params), np.array(expected, qtype.dtype))


@pytest.mark.parametrize("qtype", [FLOAT8E4M3FN, FLOAT8E5M2], ids=lambda qtype: qtype.name)
def test_float8_codes_agree_with_onnx_quantize_linear(rng, qtype):
    float8 = qtype.name
    model = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["": 21]>
        g (float[N] x, float scale, {float8} zero) => ({float8}[N] y) {{ y = QuantizeLinear(x, scale, zero) }}""")
    x = np.concatenate([rng.normal(size=500) * 10.0 ** rng.integers(-6, 7, 500), [0.0, 0.3, -1e9]]).astype(np.float32)
    params = QuantParams(np.array(0.37, np.float32), np.zeros((), qtype.dtype), QuantSpec(qtype=qtype))
    feeds = {"x": x, "scale": params.scale, "zero": params.zero_point}
    expected = ReferenceEvaluator(model).run(None, feeds)[0]
    np.testing.assert_array_equal(quantize(x, params).view(np.uint8), np.asarray(expected).view(np.uint8))


def test_block_formats_have_no_scale():
    params = QuantParams(np.array(1, np.float32), np.array(0, np.float32), QuantSpec(qtype=QTYPES["bfp16"]))
    with pytest.raises(OptionError, match="bfp16 takes no scale"):
        quantize(np.ones(8, np.float32), params)


@pytest.mark.parametrize("granularity", [PerTensor(), PerAxis(0), PerAxis(1), PerAxis(2), PerBlock(1, 32)])
@pytest.mark.parametrize("qtype", [INT8, INT16, INT4])
def test_a_tensor_of_several_slabs_gets_the_codes_of_its_parts(granularity, qtype, rng, monkeypatch):
    values = rng.normal(size=(1, 70, 9)).astype(np.float32)
    params = round_to_nearest(values, QuantSpec(qtype=qtype, symmetric=True, granularity=granularity)).params
    whole = quantize(values, params)
    monkeypatch.setattr(affine, "_SLAB", 50)
    np.testing.assert_array_equal(quantize(values, params), whole)
    assert quantize(values, params).dtype == whole.dtype


def test_a_number_stays_an_array_of_no_axes() -> None:
    found = round_to_nearest(np.array(0.7, np.float32), QuantSpec(qtype=INT8))
    assert isinstance(dequantize(found.codes, found.params), np.ndarray)
    assert dequantize(found.codes, found.params).shape == ()
