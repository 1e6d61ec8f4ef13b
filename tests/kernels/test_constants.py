import numpy as np
import pytest

from vqonnx.core.granularity import PerAxis, PerTensor
from vqonnx.core.qtype import FLOAT8E4M3FN, INT4, INT8
from vqonnx.core.spec import QuantSpec, RangeMethod, ScaleGrid
from vqonnx.errors import OptionError, QuantRangeError
from vqonnx.kernels.affine import affine_params, block_ranges, dequantize, quantize
from vqonnx.kernels.constants import constant_params, histogram_of
from vqonnx.kernels.positions import least_error_params
from vqonnx.kernels.ranges import HISTOGRAM_METHODS, RangeOptions, choose_range

S8 = QuantSpec(qtype=INT8, symmetric=True)
PER_CHANNEL = QuantSpec(qtype=INT8, symmetric=True, granularity=PerAxis(1))
POWERS = QuantSpec(qtype=INT8, symmetric=True, granularity=PerAxis(1), grid=ScaleGrid.POWER_OF_TWO)


def weight():
    return (np.random.default_rng(0).standard_t(3, (40, 3, 5)) * [[[0.1], [1.0], [20.0]]]).astype(np.float32)


def test_by_default_the_range_is_all_of_the_constant():
    params = constant_params(weight(), PER_CHANNEL)
    expected = affine_params(*block_ranges(weight(), PER_CHANNEL), PER_CHANNEL)
    np.testing.assert_array_equal(params.scale, expected.scale)


@pytest.mark.parametrize("method", [method for method in HISTOGRAM_METHODS if method is not RangeMethod.MIN_MAX])
def test_other_methods_choose_for_each_channel(method):
    params = constant_params(weight(), PER_CHANNEL, method, RangeOptions(percentile=99))
    assert params.scale.shape == (3,)
    for channel in range(3):
        row = np.ascontiguousarray(weight()[:, channel])
        low, high = choose_range(method, histogram_of(row), S8, RangeOptions(percentile=99))
        assert params.scale[channel] == affine_params(low, high, S8).scale


def test_small_floats_spread_as_the_elements_of_each_channel_do():
    spec = QuantSpec(qtype=FLOAT8E4M3FN, symmetric=True, granularity=PerAxis(1))
    codes = np.arange(256, dtype=np.uint8).view(FLOAT8E4M3FN.dtype).astype(np.float64)
    wanted = weight().astype(np.float64).std(axis=(0, 2)) / codes[np.isfinite(codes)].std()
    params = constant_params(weight(), spec, RangeMethod.DISTRIBUTION)
    np.testing.assert_allclose(params.scale, wanted, rtol=1e-5)
    with pytest.raises(OptionError, match="fits the codes of float types"):
        constant_params(weight(), PER_CHANNEL, RangeMethod.DISTRIBUTION)


def test_least_squared_error_on_powers_of_two_is_exact():
    params = constant_params(weight(), POWERS, RangeMethod.MSE, dtype=np.float32)
    np.testing.assert_array_equal(params.scale, least_error_params(weight(), POWERS).scale)


@pytest.mark.parametrize("grid", [*ScaleGrid])
def test_least_squared_error_beats_the_whole_range(grid):
    spec = QuantSpec(qtype=INT4, symmetric=True, granularity=PerTensor(), grid=grid)
    x = np.random.default_rng(1).standard_t(4, (300, 30)).astype(np.float32)
    errors = [
        np.square(dequantize(quantize(x, params), params) - x).sum()
        for params in (constant_params(x, spec, method) for method in (RangeMethod.MSE, RangeMethod.MIN_MAX))
    ]
    assert errors[0] < errors[1]


def test_float16_constants_have_float16_scales():
    half = weight().astype(np.float16)
    for method in (RangeMethod.MIN_MAX, RangeMethod.MSE, RangeMethod.PERCENTILE):
        assert constant_params(half, PER_CHANNEL, method, dtype=np.float16).scale.dtype == np.float16


def test_an_empty_constant_has_scales():
    assert constant_params(np.zeros((4, 3, 0), np.float32), PER_CHANNEL, RangeMethod.MSE).scale.shape == (3,)
    assert histogram_of(np.zeros(0, np.float32)).counts.size == 0


def test_a_method_of_samples_is_refused():
    with pytest.raises(OptionError, match="'mean' does not choose from a histogram"):
        constant_params(weight(), S8, RangeMethod.MEAN)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(QuantRangeError, match="NaN or infinite"):
        constant_params(np.array([1, np.inf], np.float32), S8, RangeMethod.MSE)
