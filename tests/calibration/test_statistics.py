import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vqonnx.calibration.statistics import STATISTICS, empty_statistic
from vqonnx.calibration.statistics.base import Statistic, register
from vqonnx.calibration.statistics.channel_mean import ChannelMean
from vqonnx.calibration.statistics.histogram import Histogram
from vqonnx.calibration.statistics.min_max import MinMax
from vqonnx.calibration.statistics.moments import Moments
from vqonnx.calibration.statistics.moving_average import MovingAverage
from vqonnx.core.qtype import FLOAT8E4M3FN, INT8, UINT8
from vqonnx.core.spec import QuantSpec, RangeMethod
from vqonnx.errors import OptionError, SampleError
from vqonnx.kernels.ranges import RangeOptions

TENSORS = hnp.arrays(
    st.sampled_from([np.float16, np.float32]),
    hnp.array_shapes(min_dims=3, max_dims=3, min_side=0, max_side=5),
    elements=st.floats(width=16, allow_nan=True, allow_infinity=True),
).map(lambda x: np.concatenate([x[:1, :1], np.zeros((*x[:1].shape[:1], 2, x.shape[2]), x.dtype)], axis=1)[:, :2])
LISTS = st.lists(TENSORS, max_size=6)
EMPTY = [MinMax(), MovingAverage(), MovingAverage(rate=0.3), Histogram(), Histogram(bins=16), Moments(), ChannelMean()]
EXACT = [MinMax(), Histogram(), Histogram(bins=16)]


def fold(empty, tensors):
    statistic = empty
    for x in tensors:
        statistic = statistic.merge(empty.of(x))
    return statistic


def assert_same(left, right, *, exact=True):
    assert type(left) is type(right)
    for (name, a), (other, b) in zip(left.arrays().items(), right.arrays().items(), strict=True):
        assert name == other
        if exact:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("empty", EMPTY, ids=repr)
@settings(max_examples=40)
@given(a=LISTS, b=LISTS, c=LISTS)
def test_merging_is_associative(empty, a, b, c):
    x, y, z = (fold(empty, part) for part in (a, b, c))
    assert_same(x.merge(y).merge(z), x.merge(y.merge(z)), exact=empty in EXACT)


@pytest.mark.parametrize("empty", EXACT, ids=repr)
@given(a=LISTS, b=LISTS)
def test_exact_statistics_merge_in_any_order(empty, a, b):
    x, y = fold(empty, a), fold(empty, b)
    assert_same(x.merge(y), y.merge(x))
    assert_same(x.merge(y), fold(empty, a + b))


@pytest.mark.parametrize("empty", EMPTY, ids=repr)
@settings(max_examples=30)
@given(a=LISTS)
def test_an_empty_statistic_is_the_neutral_element(empty, a):
    x = fold(empty, a)
    assert_same(x.merge(empty), x)
    assert_same(empty.merge(x), x)


@pytest.mark.parametrize("empty", EMPTY, ids=repr)
@settings(max_examples=30)
@given(a=LISTS)
def test_arrays_carry_a_statistic_to_the_last_bit(empty, a):
    x = fold(empty, a)
    assert_same(type(x).from_arrays(x.arrays()), x)


@pytest.mark.parametrize("empty", EMPTY, ids=repr)
@settings(max_examples=30)
@given(a=LISTS)
def test_dropped_counts_what_is_not_finite(empty, a):
    assert fold(empty, a).dropped == sum(int((~np.isfinite(x)).sum()) for x in a)


@given(LISTS)
def test_min_max_and_moments_equal_numpy_on_all_at_once(a):
    together = np.concatenate([x.ravel().astype(np.float64) for x in a] or [np.zeros(0)])
    finite = together[np.isfinite(together)]
    ends, sums = fold(MinMax(), a), fold(Moments(), a)
    assert (ends.low, ends.high) == ((finite.min(), finite.max()) if finite.size else (math.inf, -math.inf))
    assert ends.count == sums.count == finite.size
    np.testing.assert_allclose(
        [sums.total, sums.squares], [finite.sum(), np.square(finite).sum()], rtol=1e-9, atol=1e-9
    )


@given(LISTS, st.sampled_from([4, 16, 2048]))
def test_a_histogram_equals_numpy_on_all_at_once(a, bins):
    found = fold(Histogram(bins=bins), a)
    together = np.concatenate([x.ravel().astype(np.float64) for x in a] or [np.zeros(0)])
    finite = together[np.isfinite(together)]
    assert found.counts.sum() == finite.size
    assert found.counts.size <= bins
    if finite.size:
        places = np.floor(np.ldexp(finite, -found.exponent)).astype(np.int64) - found.offset
        np.testing.assert_array_equal(found.counts, np.bincount(places))
        assert found.counts[0] > 0
        assert (found.low, found.high) == (finite.min(), finite.max())


def test_a_moving_average_follows_its_formula_in_sample_order():
    samples = [np.array([-2.0, 4.0]), np.array([-1.0, 8.0]), np.zeros(0), np.array([-3.0, 2.0])]
    low, high = -2.0, 4.0
    for new_low, new_high in [(-1.0, 8.0), (-3.0, 2.0)]:
        low, high = low + 0.1 * (new_low - low), high + 0.1 * (new_high - high)
    found = fold(MovingAverage(rate=0.1), samples)
    assert (found.low, found.high, found.samples) == (pytest.approx(low), pytest.approx(high), 3)


def test_channel_means_are_numpys_and_leave_out_what_is_not_finite(rng):
    x = rng.normal(size=(3, 5, 7)).astype(np.float32)
    x[0, 2, 3] = np.nan
    y = rng.normal(size=(1, 5, 2)).astype(np.float32)
    found = fold(ChannelMean(axis=-2), [x, y])
    both = np.concatenate([np.moveaxis(part, 1, 0).reshape(5, -1) for part in (x, y)], axis=1).astype(np.float64)
    np.testing.assert_allclose(found.means, np.nanmean(both, axis=1))
    assert found.dropped == 1
    np.testing.assert_array_equal(ChannelMean().means, np.zeros(0))


def test_channel_means_refuse_other_channels_and_a_missing_axis():
    with pytest.raises(SampleError, match="axis 1 has 2 channels in one sample and 3 in another"):
        fold(ChannelMean(), [np.ones((1, 2)), np.ones((1, 3))])
    with pytest.raises(SampleError, match=r"shape \(4,\) has no channel axis 1; choose an axis that it has"):
        ChannelMean().of(np.ones(4))


@pytest.mark.parametrize(
    ("empty", "method", "expected"),
    [
        (MinMax(), RangeMethod.MIN_MAX, (-1.0, 3.0)),
        (MovingAverage(), RangeMethod.MOVING_AVERAGE, (-1.0, 3.0)),
        (Histogram(), RangeMethod.MIN_MAX, (-1.0, 3.0)),
    ],
)
def test_a_statistic_chooses_a_range_for_the_methods_it_serves(empty, method, expected):
    found = empty.of(np.array([-1.0, 3.0], np.float32))
    assert found.range(method, QuantSpec(qtype=UINT8), RangeOptions()) == expected
    low = -expected[1]
    assert found.range(method, QuantSpec(qtype=INT8, symmetric=True), RangeOptions()) == (low, expected[1])
    assert empty.range(method, QuantSpec(qtype=UINT8), RangeOptions()) == (0.0, 0.0)


def test_moments_choose_the_range_of_float_types():
    low, high = (
        Moments()
        .of(np.array([-1.0, 1.0]))
        .range(RangeMethod.DISTRIBUTION, QuantSpec(qtype=FLOAT8E4M3FN), RangeOptions())
    )
    assert low == -high < 0


@pytest.mark.parametrize("empty", EMPTY, ids=repr)
def test_a_method_that_a_statistic_does_not_serve_is_refused(empty):
    method = next(method for method in RangeMethod if method not in empty.methods)
    with pytest.raises(OptionError, match=f"statistic '{empty.name}' serves .*, not '{method.value}'; observe"):
        empty.range(method, QuantSpec(qtype=UINT8), RangeOptions())


@pytest.mark.parametrize("method", RangeMethod)
def test_every_range_method_has_a_statistic(method):
    assert method in empty_statistic(method).methods


def test_a_plain_min_max_never_costs_a_histogram():
    assert empty_statistic(RangeMethod.MIN_MAX) == MinMax()


def test_statistics_are_found_by_name_and_a_wrong_one_names_the_nearest():
    assert empty_statistic("minmax") == MinMax()
    assert empty_statistic("histogram").name == "histogram"
    with pytest.raises(
        OptionError, match=r"no statistic is named 'histgram' \(did you mean 'histogram'\?\); there are"
    ):
        empty_statistic("histgram")


def test_a_second_statistic_of_the_same_name_is_refused():
    class Impostor(MinMax):
        pass

    with pytest.raises(OptionError, match=r"'minmax' is already defined by vqonnx.calibration.statistics.min_max"):
        register(Impostor)
    assert STATISTICS["minmax"] is MinMax
    assert issubclass(Impostor, Statistic)
