"""Block floating point against its definition in float64, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.kernels.formats.formats import ROUND, ROUNDINGS, all_patterns, assert_same_bits, in_blocks, spread_out
from vqonnx.core.block_formats import BFP16, BLOCK_FLOAT_FORMATS, MX4, MX6, MX9, BlockFloatFormat, BlockFloatMethod
from vqonnx.core.qtype import BFLOAT16
from vqonnx.errors import OptionError
from vqonnx.kernels.formats.blockfloat import round_to_block_float
from vqonnx.kernels.formats.floats import round_to_float

COMPILER = replace(BFP16, name="compiler", twos_complement=True)
FORMATS = pytest.mark.parametrize("fmt", [*BLOCK_FLOAT_FORMATS.values(), COMPILER], ids=lambda fmt: fmt.name)
PRIMES = pytest.mark.parametrize("fmt", [MX9, MX6, MX4], ids=lambda fmt: fmt.name)


def biased_exponent(x):
    return (np.abs(x).astype(np.float32).view(np.uint32) >> 23).astype(np.int64)


def definition(x, fmt, axis):
    """Rounds float64 blocks [.., b], as the format is defined."""
    return in_blocks(x, axis, fmt.block_size, prime if fmt.method is BlockFloatMethod.TO_BFP_PRIME else plain, fmt)


def plain(blocks, fmt):
    m = fmt.mantissa_bits
    finite = np.isfinite(blocks)
    numbers = np.where(finite, blocks, 0)
    exponent = biased_exponent(numbers).max(axis=-1, keepdims=True)
    step = 2.0 ** (exponent - 127 - (m - 1))
    if fmt.twos_complement:
        beyond = (ROUND[fmt.rounding](numbers / step) >= 2**m).any(axis=-1, keepdims=True)
        step = np.where(beyond & (exponent < 254), 2 * step, step)
    codes = ROUND[fmt.rounding](numbers / step)
    lowest = np.where(-(2**m) * step > -(2.0**128), fmt.qmin, -fmt.qmax)
    return np.where(finite, np.clip(codes, lowest, fmt.qmax) * step, blocks)


def prime(blocks, fmt):
    m, count = fmt.mantissa_bits, fmt.block_size // fmt.sub_block_size
    subs = blocks.reshape(*blocks.shape[:-1], count, fmt.sub_block_size)
    own = biased_exponent(subs).max(axis=-1, keepdims=True)
    shared = own.max(axis=-2, keepdims=True)
    shift = np.minimum(shared - own, 2**fmt.sub_block_shift_bits - 1)
    step = 2.0 ** (shared - 127 - shift + 1 - m)
    with np.errstate(invalid="ignore"):
        codes = ROUND[fmt.rounding](np.where(np.abs(subs) < 2.0**-126, 0, subs) / step)
    rounded = np.where(shared == 255, np.nan, np.clip(codes, -fmt.qmax, fmt.qmax) * step)
    return np.copysign(rounded, subs).reshape(blocks.shape)


@FORMATS
@ROUNDINGS
@pytest.mark.parametrize(
    ("shape", "axis"), [((6, 40, 3), 1), ((2, 37, 20), 1), ((5, 83), -1), ((100,), 0), ((3, 50), 0)]
)
def test_every_layout_matches_the_definition(rng, fmt, rounding, shape, axis):
    fmt = replace(fmt, rounding=rounding)
    x = spread_out(rng, shape)
    assert_same_bits(round_to_block_float(x, fmt, axis), definition(x, fmt, axis))


@FORMATS
@ROUNDINGS
def test_all_16_bit_patterns_match_the_definition(rng, fmt, rounding):
    fmt = replace(fmt, rounding=rounding)
    x = all_patterns(rng)
    assert_same_bits(round_to_block_float(x, fmt, -1), definition(x, fmt, -1))


@FORMATS
@ROUNDINGS
def test_halves_round_as_asked(fmt, rounding):
    fmt = replace(fmt, rounding=rounding)
    step = 2.0 ** (1 - fmt.mantissa_bits)
    codes = np.arange(-fmt.qmax, fmt.qmax) + 0.5
    x = np.zeros((codes.size, fmt.block_size), np.float32)
    x[:, 0], x[:, 1] = 1.0, codes * step  # 1.0 fixes the step; both are in one sub-block
    rounded = round_to_block_float(x, fmt, 1)[:, 1] / step
    inside = np.abs(codes) < fmt.qmax - 1
    np.testing.assert_array_equal(rounded[inside], ROUND[rounding](codes)[inside])


@pytest.mark.parametrize("bit_width", [10, 11, 24, 32])
@pytest.mark.parametrize(("block_size", "sub", "shift_bits"), [(1, 1, 0), (12, 4, 2), (15, 5, 8), (64, 32, 3)])
@ROUNDINGS
def test_any_parameters_match_the_definition(rng, bit_width, block_size, sub, shift_bits, rounding):
    x = spread_out(rng, (7, 130))
    shared = {"bit_width": bit_width, "block_size": block_size, "rounding": rounding}
    for fmt in (
        BlockFloatFormat(name="plain", **shared),
        BlockFloatFormat(name="compiler", **shared, twos_complement=True),
        BlockFloatFormat(
            name="prime",
            **shared,
            method=BlockFloatMethod.TO_BFP_PRIME,
            sub_block_size=sub,
            sub_block_shift_bits=shift_bits,
        ),
    ):
        for axis in (0, 1):
            assert_same_bits(round_to_block_float(x, fmt, axis), definition(x, fmt, axis))


def test_bfp16_by_hand():
    x = np.array([1.0, 1.99, -1.999, 0.0078125, 0.0234375, 0.5, -0.001, 3e-39], np.float32)
    expected = [1.0, 127 / 64, -127 / 64, 0.0, 2 / 64, 0.5, -0.0, 0.0]  # 127.36, -127.9, 0.5, 1.5 steps of 1/64
    assert_same_bits(round_to_block_float(x, BFP16, 0), np.array(expected))


def test_the_compiler_takes_the_next_exponent_where_others_saturate():
    below_two = 2 - 2.0**-8  # 127.75 steps of 1/64
    x = np.array([below_two, 3 / 64, -below_two, 1, 0, 0, 0, 0], np.float32)
    assert_same_bits(round_to_block_float(x, COMPILER, 0)[:3], np.array([2.0, 4 / 64, -2.0]))  # steps of 2/64
    assert_same_bits(round_to_block_float(x, BFP16, 0)[:3], np.array([127 / 64, 3 / 64, -127 / 64]))
    x[0] = 1.0
    assert_same_bits(round_to_block_float(x, COMPILER, 0)[:3], np.array([1.0, 3 / 64, -2.0]))  # -128 steps of 1/64


def test_mx4_by_hand():
    # Two mantissa bits: steps of 2^E where the sub-block's exponent is the block's, of half that where it is smaller.
    x = np.array([3.9, 1.0, 1.9, 0.5, 0.4, -0.6, *[0.0] * 10], np.float32)
    expected = [3 * 1.0 * 1, 1.0, 1.5, 0.5, 0.5, -0.5, *[0.0] * 10]
    assert_same_bits(round_to_block_float(x, MX4, 0), np.array(expected))


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_plain_blocks_pass_what_is_no_number(rng, special):
    x = rng.normal(size=16).astype(np.float32)
    without = x.copy()
    without[3] = 0
    x[3] = special
    rounded = round_to_block_float(x, BFP16, 0)
    np.testing.assert_array_equal(rounded[3], special)
    assert_same_bits(np.delete(rounded, 3), np.delete(round_to_block_float(without, BFP16, 0), 3))


@PRIMES
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_microexponents_lose_the_whole_block_to_what_is_no_number(rng, fmt, special):
    x = rng.normal(size=32).astype(np.float32)
    x[3] = special
    rounded = round_to_block_float(x, fmt, 0)
    assert np.isnan(rounded[:16]).all()
    assert np.isfinite(rounded[16:]).all()


@FORMATS
def test_one_element_passes_and_no_element_stays_none(fmt):
    for shape in [(), (1,), (1, 1, 1)]:
        x = np.full(shape, 1.2345678, np.float32)
        rounded = round_to_block_float(x, fmt, 1)
        assert_same_bits(rounded, x)
        assert not np.shares_memory(rounded, x)
    for shape in [(0,), (0, 3), (2, 0, 3), (2, 3, 0)]:
        assert round_to_block_float(np.zeros(shape, np.float32), fmt, -1).shape == shape


@FORMATS
@settings(max_examples=30)
@given(
    x=hnp.arrays(
        np.float32, hnp.array_shapes(max_dims=4, max_side=20), elements=st.floats(-(2.0**99), 2.0**99, width=32)
    ),
    power=st.integers(-20, 20),
)
def test_powers_of_two_pass_through(fmt, x, power):
    x = np.where(np.abs(x) < 2.0**-99, 0, x).astype(np.float32)  # numbers that stay normal under every power
    scale = np.float32(2.0**power)
    assert_same_bits(round_to_block_float(x * scale, fmt, -1), round_to_block_float(x, fmt, -1) * scale)


@pytest.mark.parametrize("fmt", BLOCK_FLOAT_FORMATS.values(), ids=lambda fmt: fmt.name)
@ROUNDINGS
def test_rounded_blocks_stay(rng, fmt, rounding):
    fmt = replace(fmt, rounding=rounding)
    once = round_to_block_float(spread_out(rng, (50, 64)), fmt, 1)
    assert_same_bits(round_to_block_float(once, fmt, 1), once)


def test_blocks_of_bfloat16_are_rounded_twice(rng):
    x = spread_out(rng, (20, 40))
    fmt = replace(BFP16, from_bfloat16=True)
    assert_same_bits(round_to_block_float(x, fmt, 1), round_to_block_float(round_to_float(x, BFLOAT16), BFP16, 1))


@FORMATS
def test_large_tensors_are_the_sum_of_their_parts(rng, fmt):
    x = rng.normal(size=(3, 160, 1500)).astype(np.float32)  # several threads and chunks of columns
    for axis in (1, 2):
        whole = round_to_block_float(x, fmt, axis)
        parts = [round_to_block_float(part, fmt, axis - 1) for part in x]
        assert_same_bits(whole, np.stack(parts))


def test_float16_tensors_are_taken_as_they_are(rng):
    x = rng.normal(size=(4, 24)).astype(np.float16)
    assert_same_bits(round_to_block_float(x, BFP16, 1), round_to_block_float(x.astype(np.float32), BFP16, 1))


def test_an_axis_that_the_tensor_lacks_is_refused():
    with pytest.raises(OptionError, match=r"shape \(2, 3\) has no axis 2"):
        round_to_block_float(np.ones((2, 3), np.float32), BFP16, 2)
    assert round_to_block_float(np.ones(3, np.float32), BFP16, 5).shape == (3,)
