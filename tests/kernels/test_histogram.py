import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vqonnx.kernels import histogram

REALS = hnp.arrays(np.float32, st.integers(1, 3000), elements=st.floats(-(2.0**100), 2.0**100, width=32))
ANY = hnp.arrays(np.float32, st.integers(0, 50), elements=st.floats(width=32, allow_nan=True, allow_infinity=True))


def min_max_oracle(x):
    finite = x[np.isfinite(x)]
    ends = (finite.min() + 0.0, finite.max() + 0.0) if finite.size else (math.inf, -math.inf)
    return *ends, x.size - finite.size


def count_oracle(x, exponent, offset, bins):
    finite = x[np.isfinite(x)].astype(np.float64)
    places = np.floor(np.ldexp(finite, -exponent)) - offset
    inside = places[(places >= 0) & (places < bins)].astype(np.int64)
    return np.bincount(inside, minlength=bins), x.size - inside.size


@given(ANY)
def test_min_max_equals_numpy_and_counts_what_is_not_finite(x):
    assert histogram.min_max(x) == min_max_oracle(x)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_min_max_takes_every_float_type_and_any_strides(dtype):
    x = np.arange(24, dtype=dtype).reshape(2, 3, 4)[:, ::2, ::-1]
    assert histogram.min_max(x) == (0.0, 23.0, 0)


def test_a_double_beyond_float32_counts_as_infinite():
    assert histogram.min_max(np.array([1e300, 1.0])) == (1.0, 1.0, 1)


def test_min_max_of_the_largest_finite_floats_is_exact():
    top = float(np.finfo(np.float32).max)
    assert histogram.min_max(np.array([-top, top], np.float32)) == (-top, top, 0)


@given(REALS, st.integers(2, 300))
def test_counts_are_bit_equal_to_numpy_and_complete(x, bins):
    low, high, _ = histogram.min_max(x)
    exponent = histogram.bin_exponent(min(low, 0), max(high, 0), bins)
    first, last = histogram.bin_range(low, high, exponent)
    counts = np.zeros(last - first + 1, np.int64)
    assert histogram.count_bins(x, exponent, first, counts) == 0
    assert counts.size <= bins
    assert counts.sum() == x.size
    np.testing.assert_array_equal(counts, count_oracle(x, exponent, first, counts.size)[0])


@given(ANY, st.integers(-20, 20), st.integers(-40, 40), st.integers(1, 50))
def test_what_lies_outside_is_left_out_and_counted(x, exponent, offset, bins):
    counts = np.zeros(bins, np.int64)
    outside = histogram.count_bins(x, exponent, offset, counts)
    expected, expected_outside = count_oracle(x, exponent, offset, bins)
    np.testing.assert_array_equal(counts, expected)
    assert outside == expected_outside


def test_a_value_on_an_edge_belongs_to_the_bin_above_and_tiny_negatives_to_the_bin_below_zero():
    counts = np.zeros(4, np.int64)
    histogram.count_bins(np.array([-1.0, -1e-45, -0.0, 0.0, 1.0, 1.5], np.float32), 0, -2, counts)
    assert counts.tolist() == [0, 2, 2, 2]


@given(st.floats(-1e30, 0), st.floats(0, 1e30), st.floats(0, 1), st.floats(0, 1), st.integers(2, 4096))
def test_a_wider_interval_never_gets_narrower_bins_and_the_exponent_is_the_smallest(low, high, a, b, bins):
    exponent = histogram.bin_exponent(low, high, bins)
    first, last = histogram.bin_range(low, high, exponent)
    assert last - first < bins
    assert histogram.bin_exponent(low * a, high * b, bins) <= exponent
    if exponent > histogram.MIN_EXPONENT:
        first, last = histogram.bin_range(low, high, exponent - 1)
        assert last - first >= bins


@given(REALS, st.integers(0, 12))
def test_widening_counts_equals_counting_in_wider_bins(x, steps):
    low, high, _ = histogram.min_max(x)
    exponent = histogram.bin_exponent(min(low, 0), max(high, 0), 512)
    first, last = histogram.bin_range(low, high, exponent)
    counts = np.zeros(last - first + 1, np.int64)
    histogram.count_bins(x, exponent, first, counts)
    widened, offset = histogram.widen(counts, first, steps)
    np.testing.assert_array_equal(widened, count_oracle(x, exponent + steps, offset, widened.size)[0])
    assert widened.sum() == x.size


@given(ANY)
def test_moments_are_those_of_the_finite_elements(x):
    finite = x[np.isfinite(x)].astype(np.float64)
    count, total, squares = histogram.moments(x)
    assert count == finite.size
    np.testing.assert_allclose(total, finite.sum(), rtol=1e-12, atol=1e-12 * np.abs(finite).sum())
    np.testing.assert_allclose(squares, np.square(finite).sum(), rtol=1e-12)
