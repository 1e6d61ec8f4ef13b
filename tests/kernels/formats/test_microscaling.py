"""Microscaling against the specification's arithmetic in float64, with ml_dtypes rounding the elements."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.kernels.formats.formats import ROUND, ROUNDINGS, all_patterns, assert_same_bits, in_blocks, spread_out
from vqonnx.core.block_formats import MICROSCALING_FORMATS, MXFP4_E2M1, MXFP8_E4M3, MXINT8, Rounding
from vqonnx.errors import OptionError
from vqonnx.kernels.formats.microscaling import round_to_microscaling

FORMATS = pytest.mark.parametrize("fmt", MICROSCALING_FORMATS.values(), ids=lambda fmt: fmt.name)
FLOATS = pytest.mark.parametrize(
    "fmt", [fmt for fmt in MICROSCALING_FORMATS.values() if fmt is not MXINT8], ids=lambda fmt: fmt.name
)


def definition(x, fmt, axis):
    return in_blocks(x, axis, fmt.block_size, scaled, fmt)


def scaled(blocks, fmt):
    """The specification's algorithm for float64 blocks [.., b]."""
    element = fmt.element
    with np.errstate(divide="ignore", invalid="ignore"):
        amax = np.abs(blocks).max(axis=-1, keepdims=True)
        exponent = np.where((amax > 0) & np.isfinite(amax), np.frexp(amax)[1] - 1, -127)
        scale = 2.0 ** np.maximum(exponent - element.max_exponent, -127)
        rounded = scale * (fixed if element.dtype == np.int8 else floating)(blocks / scale, scale, fmt)
    return np.where(np.isfinite(amax), rounded, np.nan)


def fixed(values, scale, fmt):
    """Multiples of 1/64; -128 of them are given up where float32 does not hold them."""
    lowest = np.where(-2.0 * scale > -(2.0**128), -128, -127)
    finite = np.where(np.isfinite(values), values, 0)
    return np.clip(ROUND[fmt.rounding](finite * 64), lowest, 127) / 64 + 0.0  # one zero


def floating(values, scale, fmt):
    """Elements as ml_dtypes rounds them, which is halves to even; else the nearest in the list of all numbers."""
    del scale
    largest = fmt.element.largest
    if fmt.rounding is Rounding.HALF_EVEN:
        return np.clip(values, -largest, largest).astype(fmt.element.dtype).astype(np.float64)
    numbers = numbers_of(fmt)
    middles = (numbers[1:] + numbers[:-1]) / 2
    up, down = (numbers[np.searchsorted(middles, values, side)] for side in ("right", "left"))
    return np.copysign(up if fmt.rounding is Rounding.HALF_UP else np.where(values > 0, up, down), values)


def numbers_of(fmt):
    """All finite numbers of the element format, ascending."""
    codes = np.arange(1 << fmt.bits, dtype=np.uint8).view(fmt.element.dtype).astype(np.float64)
    codes = codes / 64 if fmt.element.dtype == np.int8 else codes
    return np.unique(codes[np.isfinite(codes)]) + 0.0  # of the zeros, the positive one


@FORMATS
@ROUNDINGS
@pytest.mark.parametrize(
    ("shape", "axis"), [((3, 70, 3), 1), ((2, 37, 20), 1), ((5, 83), -1), ((100,), 0), ((40, 50), 0)]
)
def test_every_layout_matches_the_definition(rng, fmt, rounding, shape, axis):
    fmt = replace(fmt, rounding=rounding)
    x = spread_out(rng, shape)
    assert_same_bits(round_to_microscaling(x, fmt, axis), definition(x, fmt, axis))


@FORMATS
@ROUNDINGS
def test_all_16_bit_patterns_match_the_definition(rng, fmt, rounding):
    fmt = replace(fmt, rounding=rounding)
    x = all_patterns(rng)
    assert_same_bits(round_to_microscaling(x, fmt, -1), definition(x, fmt, -1))


@FORMATS
@pytest.mark.parametrize("exponent", [-127, -120, -20, 0, 7, 100])
def test_all_numbers_of_the_format_stay(fmt, exponent):
    numbers = np.ldexp(numbers_of(fmt), exponent)
    x = np.zeros((numbers.size, 32), np.float32)
    x[:, 0], x[:, 1] = np.ldexp(fmt.element.largest, exponent), numbers
    assert_same_bits(round_to_microscaling(x, fmt, 1)[:, 1], numbers)


@FORMATS
@ROUNDINGS
def test_halves_and_their_neighbours_round_as_asked(fmt, rounding):
    fmt = replace(fmt, rounding=rounding)
    numbers = numbers_of(fmt)
    middles = ((numbers[1:] + numbers[:-1]) / 2).astype(np.float32)
    near = np.concatenate(
        [middles, np.nextafter(middles, np.float32(-np.inf)), np.nextafter(middles, np.float32(np.inf))]
    )
    x = np.zeros((near.size, 32), np.float32)
    x[:, 0], x[:, 1] = fmt.element.largest, near
    rounded = round_to_microscaling(x, fmt, 1)[:, 1].reshape(3, -1)
    np.testing.assert_array_equal(rounded[1], numbers[:-1])
    np.testing.assert_array_equal(rounded[2], numbers[1:])
    away = np.where(middles > 0, numbers[1:], numbers[:-1])
    even = numbers[1:], numbers[:-1]
    if rounding is Rounding.HALF_EVEN:
        assert ((rounded[0] == even[0]) | (rounded[0] == even[1])).all()
        assert_same_bits(rounded[0], definition(x, fmt, 1)[: middles.size, 1])
    else:
        np.testing.assert_array_equal(rounded[0], numbers[1:] if rounding is Rounding.HALF_UP else away)


def test_mxfp4_by_hand():
    # The largest is 13 = 1.625 * 2^3, so the scale is 2^(3 - 2) = 2, and elements are 0, 0.5, 1, 1.5, 2, 3, 4, 6.
    x = np.zeros(32, np.float32)
    x[:8] = [13, -13, 0.4, 0.5, 1.5, -5, 9, 10]  # divided by 2: 6.5, -6.5, 0.2, 0.25, 0.75, -2.5, 4.5, 5
    expected = np.zeros(32)
    expected[:8] = [12, -12, 0, 0, 2, -4, 8, 8]
    assert_same_bits(round_to_microscaling(x, MXFP4_E2M1, 0), expected)


@FORMATS
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_a_block_with_what_is_no_number_is_lost_as_a_whole(rng, fmt, special):
    x = rng.normal(size=64).astype(np.float32)
    x[3] = special
    rounded = round_to_microscaling(x, fmt, 0)
    assert np.isnan(rounded[:32]).all()
    assert np.isfinite(rounded[32:]).all()


@FORMATS
def test_numbers_never_become_infinite(fmt):
    largest = np.finfo(np.float32).max
    for x in (np.full(32, largest), np.full(32, -largest), np.resize([largest, -largest, 1], 32)):
        rounded = round_to_microscaling(x, fmt, 0)
        assert np.isfinite(rounded).all()
        assert_same_bits(rounded, definition(x, fmt, 0))


@FLOATS
def test_zeros_keep_their_sign(fmt):
    x = np.resize(np.array([-0.0, 0.0, -1e-30, 1e-30], np.float32), 32)
    x[31] = 1.0
    rounded = round_to_microscaling(x, fmt, 0)
    np.testing.assert_array_equal(rounded[:31], 0)
    np.testing.assert_array_equal(np.signbit(rounded), np.signbit(x))


def test_fixed_point_has_one_zero():
    x = np.array([-0.0, -1e-30, 1.0, *[0.0] * 29], np.float32)
    assert not np.signbit(round_to_microscaling(x, MXINT8, 0)).any()
    assert not np.signbit(round_to_microscaling(np.full(32, -0.0, np.float32), MXINT8, 0)).any()


@FORMATS
def test_one_element_passes_and_no_element_stays_none(fmt):
    for shape in [(), (1,), (1, 1, 1)]:
        x = np.full(shape, 1.2345678, np.float32)
        assert_same_bits(round_to_microscaling(x, fmt, 1), x)
    for shape in [(0,), (2, 0, 3), (2, 3, 0)]:
        assert round_to_microscaling(np.zeros(shape, np.float32), fmt, -1).shape == shape


@FORMATS
@settings(max_examples=30)
@given(
    x=hnp.arrays(
        np.float32, hnp.array_shapes(max_dims=3, max_side=40), elements=st.floats(-(2.0**99), 2.0**99, width=32)
    )
)
def test_rounded_blocks_stay_and_keep_their_order(fmt, x):
    once = round_to_microscaling(x, fmt, -1)
    assert_same_bits(round_to_microscaling(once, fmt, -1), once)
    block, rounded = x.reshape(-1, x.shape[-1])[0, :32], once.reshape(-1, x.shape[-1])[0, :32]
    assert (np.diff(rounded[np.argsort(block)]) >= 0).all()


def test_other_block_sizes_match_the_definition(rng):
    for size in (1, 7, 16, 24, 512):
        fmt = replace(MXFP8_E4M3, block_size=size)
        x = spread_out(rng, (20, 300))
        for axis in (0, 1):
            assert_same_bits(round_to_microscaling(x, fmt, axis), definition(x, fmt, axis))


def test_an_axis_that_the_tensor_lacks_is_refused():
    with pytest.raises(OptionError, match="has no axis -3"):
        round_to_microscaling(np.ones((2, 3), np.float32), MXINT8, -3)


def test_ml_dtypes_agrees_on_the_ends_of_the_formats():
    for fmt in MICROSCALING_FORMATS.values():
        if fmt is not MXINT8:
            info = ml_dtypes.finfo(fmt.element.dtype)
            element = fmt.element
            assert float(info.max) == element.largest
            assert float(info.smallest_subnormal) == element.step
            assert info.nmant == element.mantissa_bits
            assert info.minexp == element.min_exponent
