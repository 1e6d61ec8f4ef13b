from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from vqonnx.core.granularity import PerAxis, PerBlock, PerTensor
from vqonnx.core.qtype import INT4, INT8, INT16, UINT8, UINT16
from vqonnx.core.spec import QuantSpec, ScaleGrid
from vqonnx.kernels.affine import affine_params, dequantize, quantize
from vqonnx.kernels.bins import Bins
from vqonnx.kernels.constants import histogram_of
from vqonnx.kernels.positions import (
    CANDIDATES,
    best_position,
    least_error_params,
    mean_square,
    mse_range,
    noise_share,
    position_errors,
    range_at,
    squared_errors,
    zero_points,
)
from vqonnx.kernels.scale_grid import position_of

S8 = QuantSpec(qtype=INT8, symmetric=True, grid=ScaleGrid.POWER_OF_TWO)
U8 = QuantSpec(qtype=UINT8, grid=ScaleGrid.POWER_OF_TWO)
SYMMETRIC_U8 = QuantSpec(qtype=UINT8, symmetric=True, grid=ScaleGrid.POWER_OF_TWO)
SPECS = [S8, U8, SYMMETRIC_U8, QuantSpec(qtype=INT4, symmetric=True, grid=ScaleGrid.POWER_OF_TWO)]


def data(kind):
    rng = np.random.default_rng(3)
    normal = rng.normal(size=20_000)
    return {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "heavy": rng.standard_t(2.5, 20_000),
        "skewed": np.where(normal < 0, normal / 9, normal * 2),
        "negative": -np.abs(normal),
    }[kind].astype(np.float32)


def brute_force(x, spec):
    """Least squared error of all positions and zero points, by quantizing every element in float64."""
    codes = np.arange(spec.qmin, spec.qmax + 1) if not spec.symmetric else [0 if spec.qtype.signed else 128]
    limit = np.abs(x).max()
    covering = int(np.floor(-np.log2(max(limit, 1e-30) / spec.qmax)))
    errors = {}
    for position in range(covering - 1, covering + 6):
        scale = 2.0**-position
        for zero in codes:
            rounded = (np.clip(np.rint(x / scale) + zero, spec.qmin, spec.qmax) - zero) * scale
            errors[position, int(zero)] = np.square(rounded - x).sum()
    return min(errors.values())


@pytest.mark.parametrize("kind", ["normal", "relu", "heavy", "skewed", "negative"])
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_range_from_a_histogram_is_as_good_as_brute_force_on_the_elements(kind, spec):
    x = data(kind).astype(np.float64)[:3000]
    params = affine_params(*mse_range(histogram_of(x.astype(np.float32)), spec), spec)
    error = np.square(dequantize(quantize(x, params), params) - x).sum()
    assert error <= 1.05 * brute_force(x, spec)


@given(st.integers(-30, 30), st.integers(0, 255), st.sampled_from([S8, U8, SYMMETRIC_U8]))
def test_a_range_gives_back_the_position_and_zero_point_that_it_was_made_of(position, zero, spec):
    params = affine_params(*range_at(spec, position, zero), spec)
    assert position_of(params.scale) == position
    if not spec.symmetric:
        assert int(params.zero_point) == zero


def test_a_range_after_a_relu_begins_at_zero_though_it_has_codes_to_spare():
    x = np.maximum(data("normal"), 0)
    low, high = mse_range(histogram_of(x), U8)
    assert low == 0
    assert high >= 1


def test_zeros_alone_have_no_position():
    assert best_position(histogram_of(np.zeros(5, np.float32)), S8) is None
    assert mse_range(histogram_of(np.zeros(5, np.float32)), S8) == (0, 0)


def test_an_empty_histogram_has_no_errors():
    empty = Bins(np.zeros(0, np.int64), 0, 0, np.inf, -np.inf)
    np.testing.assert_array_equal(position_errors(empty, S8, (1, 2)), [0, 0])


@pytest.mark.parametrize("spec", [S8, U8], ids=str)
def test_errors_of_positions_are_those_of_the_elements(spec):
    x = data("heavy")[:4000]
    positions = range(-2, 6)
    found = position_errors(histogram_of(x), spec, positions)
    for error, position in zip(found, positions, strict=True):
        zeros = zero_points((float(x.min()), float(x.max())), spec, position)
        params = [affine_params(*range_at(spec, position, int(zero)), spec) for zero in zeros]
        exact = min(np.square(dequantize(quantize(x, one), one).astype(np.float64) - x).sum() for one in params)
        assert error == pytest.approx(exact, rel=0.1)


def test_noise_is_counted_against_energy():
    bins = histogram_of(data("normal"))
    energy = np.square(data("normal").astype(np.float64)).sum()
    assert mean_square(bins) == pytest.approx(energy / 20_000, rel=1e-3)
    assert noise_share(bins, S8, 4) == pytest.approx(position_errors(bins, S8, [4])[0] / energy, rel=1e-3)
    empty = Bins(np.zeros(0, np.int64), 0, 0, np.inf, -np.inf)
    zeros = histogram_of(np.zeros(3, np.float32))
    assert (noise_share(empty, S8, 4), mean_square(empty), noise_share(zeros, S8, 4), mean_square(zeros)) == (
        0,
        0,
        0,
        0,
    )


@given(low=st.floats(-9, -0.01), high=st.floats(0.01, 9), position=st.integers(-3, 9))
def test_zero_points_reach_from_one_end_to_the_other(low, high, position):
    zeros = zero_points((low, high), U8, position).tolist()
    keeps = [min(max(round(Fraction(end)), 0), 255) for end in (-low * 2.0**position, 255 - high * 2.0**position)]
    assert sorted(zeros) == list(range(min(keeps), max(keeps) + 1))
    assert abs(zeros[0] - sum(keeps) / 2) <= 1


def test_wide_types_try_a_sample_of_zero_points():
    spec = QuantSpec(qtype=UINT16, grid=ScaleGrid.POWER_OF_TWO)
    zeros = zero_points((-1.0, 1.0), spec, 17)
    assert zeros.size == 257
    assert {0, 65535} < set(zeros.tolist())


WEIGHTS = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=3, max_side=7),
    elements=st.floats(-(2.0**10), 2.0**10, width=32).filter(lambda v: v == 0 or abs(v) > 1e-20),
)


@settings(max_examples=60)
@given(
    x=WEIGHTS,
    qtype=st.sampled_from([INT4, INT8, UINT8, INT16]),
    granularity=st.sampled_from([PerTensor(), PerAxis(0), PerAxis(-1), PerBlock(1, 4), PerBlock(0, 2)]),
)
def test_the_position_of_a_constant_is_the_best_of_all_candidates(x, qtype, granularity):
    spec = QuantSpec(qtype=qtype, symmetric=True, granularity=granularity, grid=ScaleGrid.POWER_OF_TWO)
    params = least_error_params(x, spec)
    assert params.scale.shape == granularity.scale_shape(x.shape)
    numbers = np.arange(params.scale.size).reshape(params.scale.shape)
    owner = np.broadcast_to(granularity.expand(numbers, x.shape), x.shape)
    zero = 0 if qtype.signed else 128
    for number in range(params.scale.size):
        block = x[owner == number].astype(np.float64)
        limit = np.abs(block).max()
        if limit == 0:
            assert params.scale.reshape(-1)[number] == 1
            continue
        step = 2 * limit / (spec.qmax - spec.qmin)
        covering = next(p for p in range(120, -60, -1) if 2.0**-p >= step)
        errors = {}
        for candidate in CANDIDATES:
            scale = 2.0 ** -(covering + candidate)
            codes = np.clip(np.rint(block / scale), spec.qmin - zero, spec.qmax - zero)
            errors[covering + candidate] = np.square(codes * scale - block).sum()
        chosen = int(position_of(params.scale).reshape(-1)[number])
        assert errors[chosen] <= min(errors.values()) * (1 + 1e-12)


def test_errors_of_blocks_leave_padding_out():
    x = np.array([[0.3, 0.3, 0.3]], np.float32)
    spec = QuantSpec(qtype=INT8, symmetric=True, granularity=PerBlock(1, 2), grid=ScaleGrid.POWER_OF_TWO)
    params = affine_params(*(np.full((1, 2), end) for end in (-100.0, 100.0)), spec)
    np.testing.assert_allclose(squared_errors(x, params), [[2 * 0.3**2, 0.3**2]], rtol=1e-6)


def test_tiny_constants_keep_normal_scales():
    for dtype, floor in ((np.float32, 2.0**-126), (np.float16, 2.0**-24)):
        tiny = np.full((3, 3), 1e-7 if dtype is np.float16 else 1e-38, dtype)
        assert least_error_params(tiny, S8, dtype).scale >= floor


def test_an_empty_constant_has_the_scale_one():
    assert least_error_params(np.zeros((0, 4), np.float32), S8).scale == 1
