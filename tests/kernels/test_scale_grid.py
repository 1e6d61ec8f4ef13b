import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from vqonnx.core.granularity import PerAxis, PerBlock, PerTensor
from vqonnx.core.qtype import INT4, INT8, INT16, UINT8, UINT16
from vqonnx.core.spec import QuantSpec, ScaleGrid
from vqonnx.errors import QuantRangeError
from vqonnx.kernels.affine import affine_params, dequantize, round_to_nearest
from vqonnx.kernels.scale_grid import (
    at_position,
    covering_position,
    fixed_point,
    on_grid,
    position_of,
    scale_at,
)

STEPS = st.floats(2.0**-120, 2.0**120)
REALS = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=3, max_side=9), elements=st.floats(-(2.0**40), 2.0**40, width=32)
)
SPECS = st.builds(
    QuantSpec,
    qtype=st.sampled_from([INT4, INT8, UINT8, INT16, UINT16]),
    symmetric=st.booleans(),
    granularity=st.sampled_from([PerTensor(), PerAxis(0), PerAxis(-1), PerBlock(1, 4), PerBlock(0, 3)]),
    grid=st.sampled_from([ScaleGrid.POWER_OF_TWO, ScaleGrid.INT16]),
)


@given(STEPS)
def test_the_covering_position_is_the_largest_that_covers(step):
    position = int(covering_position(step))
    assert Fraction(2) ** -position >= Fraction(step) > Fraction(2) ** -(position + 1)


@given(st.integers(-120, 120))
def test_position_and_scale_are_inverse(position):
    assert position_of(scale_at(position)) == covering_position(scale_at(position)) == position
    assert position_of(scale_at(position).astype(np.float32)) == position


@pytest.mark.parametrize("scale", [0.3, 0.0, [0.5, 3.0], math.inf])
def test_a_scale_that_is_no_power_of_two_has_no_position(scale):
    with pytest.raises(QuantRangeError, match="a scale that is a power of two, got"):
        position_of(scale)


@given(st.one_of(st.floats(2.0**-20, 2.0**16), st.floats(0.2, 0.6)))
def test_the_closest_fixed_point_number_of_all(step):
    multiplier, shift = (int(part) for part in fixed_point(step))
    assert 1 <= multiplier <= 32767
    assert 0 <= shift <= 16
    exact = Fraction(step)
    all_errors = (
        abs(Fraction(m, 2**n) - exact)
        for n in range(17)
        for m in {min(max(math.floor(exact * 2**n) + extra, 1), 32767) for extra in (0, 1)}
    )
    assert abs(Fraction(multiplier, 2**shift) - exact) == min(all_errors)
    assert on_grid(step, ScaleGrid.INT16) == multiplier / 2**shift


def test_grids_keep_the_shape():
    steps = np.array([[0.1, 0.2, 3.0]])
    assert on_grid(steps, ScaleGrid.INT16).shape == on_grid(steps, ScaleGrid.POWER_OF_TWO).shape == (1, 3)
    np.testing.assert_array_equal(on_grid(steps, ScaleGrid.FREE), steps)
    np.testing.assert_array_equal(on_grid(steps, ScaleGrid.POWER_OF_TWO), [[0.125, 0.25, 4]])


@given(x=REALS, spec=SPECS)
def test_every_scale_lies_on_its_grid(x, spec):
    scale = round_to_nearest(x, spec).params.scale.astype(np.float64)
    assert scale.shape == spec.granularity.scale_shape(x.shape)
    np.testing.assert_array_equal(on_grid(scale, spec.grid), scale)


@given(x=REALS, spec=SPECS)
def test_powers_of_two_clip_nothing(x, spec):
    if spec.grid is not ScaleGrid.POWER_OF_TWO:
        return
    quantized = round_to_nearest(x, spec)
    scale = spec.granularity.expand(quantized.params.scale, x.shape).astype(np.float64)
    error = np.abs(dequantize(quantized.codes, quantized.params).astype(np.float64) - x)
    assert (error <= 0.5001 * scale + 1e-6 * np.abs(x)).all()


@given(low=st.floats(-50, 0), high=st.floats(0.001, 50), grid=st.sampled_from([*ScaleGrid]), signed=st.booleans())
def test_zero_points_are_those_of_the_scale_on_the_grid(low, high, grid, signed):
    spec = QuantSpec(qtype=INT8 if signed else UINT8, grid=grid)
    params = affine_params(low, high, spec)
    zero = min(max(round(Fraction(spec.qmin) - Fraction(low) / Fraction(float(params.scale))), spec.qmin), spec.qmax)
    assert int(params.zero_point) == zero


@pytest.mark.parametrize("grid", [ScaleGrid.POWER_OF_TWO, ScaleGrid.INT16])
def test_float16_scales_stay_on_the_grid(grid):
    for high in (1e-4, 0.01, 3.3, 500.0, 65504.0):
        params = affine_params(-high, high, QuantSpec(qtype=INT8, symmetric=True, grid=grid), np.float16)
        assert params.scale.dtype == np.float16
        assert on_grid(params.scale, grid) == params.scale


def test_the_largest_scales_are_finite():
    spec = QuantSpec(qtype=INT4, symmetric=True, grid=ScaleGrid.POWER_OF_TWO)
    for dtype in (np.float32, np.float16):
        huge = float(np.finfo(dtype).max)
        assert np.isfinite(affine_params(-huge, huge, spec, dtype).scale)


@given(x=REALS, shift=st.integers(-3, 3), symmetric=st.booleans())
def test_at_another_position_a_range_grows_or_shrinks_about_zero(x, shift, symmetric):
    spec = QuantSpec(qtype=UINT8, symmetric=symmetric, granularity=PerAxis(0), grid=ScaleGrid.POWER_OF_TWO)
    params = round_to_nearest(x, spec).params
    moved = at_position(params, position_of(params.scale) + shift)
    np.testing.assert_array_equal(moved.scale, params.scale * 2.0**-shift)
    np.testing.assert_array_equal(moved.zero_point, params.zero_point)
    assert moved.scale.dtype == params.scale.dtype


def test_one_position_serves_all_scales():
    params = affine_params([-1.0, -2.0], [1.0, 2.0], QuantSpec(qtype=INT8, symmetric=True))
    np.testing.assert_array_equal(at_position(params, 4).scale, [1 / 16, 1 / 16])
