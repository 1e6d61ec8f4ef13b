import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqonnx.calibration.statistics import empty_statistic
from vqonnx.calibration.statistics.position_votes import PositionVotes
from vqonnx.core.qtype import INT8, INT16, UINT8
from vqonnx.core.spec import QuantSpec, RangeMethod, ScaleGrid
from vqonnx.errors import OptionError
from vqonnx.kernels.affine import affine_params
from vqonnx.kernels.constants import histogram_of
from vqonnx.kernels.positions import best_position
from vqonnx.kernels.ranges import RangeOptions
from vqonnx.kernels.scale_grid import position_of

S8 = QuantSpec(qtype=INT8, symmetric=True, grid=ScaleGrid.POWER_OF_TWO)
U8 = QuantSpec(qtype=UINT8, grid=ScaleGrid.POWER_OF_TWO)
OPTIONS = RangeOptions()
SAMPLES = st.lists(
    st.lists(st.floats(-100, 100, width=32) | st.just(math.nan), max_size=20).map(lambda x: np.array(x, np.float32)),
    max_size=6,
)


def fold(samples, spec=S8):
    total = empty = PositionVotes.of_spec(spec)
    for sample in samples:
        total = total.merge(empty.of(sample))
    return total


@given(SAMPLES, SAMPLES, SAMPLES)
def test_merging_is_exact_in_any_order(a, b, c):
    x, y, z = fold(a), fold(b), fold(c)
    for one, other in (
        (x.merge(y).merge(z), x.merge(y.merge(z))),
        (x.merge(y), y.merge(x)),
        (fold(a + b), x.merge(y)),
        (PositionVotes().merge(x), x),
    ):
        for left, right in zip(one.arrays().values(), other.arrays().values(), strict=True):
            np.testing.assert_array_equal(left, right)


@given(SAMPLES)
def test_arrays_carry_it_to_the_last_bit(a):
    x = fold(a, U8)
    again = PositionVotes.from_arrays(x.arrays())
    np.testing.assert_array_equal(again.votes, x.votes)
    assert (again.low, again.high, again.spec, again.dropped) == (x.low, x.high, x.spec, x.dropped)
    assert x.dropped == sum(int(np.isnan(sample).sum()) for sample in a)


@given(SAMPLES)
def test_each_sample_votes_for_its_own_position(samples):
    clean = [sample[~np.isnan(sample)] for sample in samples]
    votes = [best_position(histogram_of(sample), S8)[0] for sample in clean if sample.any()]
    expected = np.bincount(np.array(votes, np.int64) + 128, minlength=256)
    np.testing.assert_array_equal(fold(clean).votes, expected)


@pytest.mark.parametrize("spec", [S8, U8], ids=str)
def test_the_position_of_most_samples_wins_over_the_largest_range(spec):
    rng = np.random.default_rng(0)
    samples = [rng.uniform(-0.9, 0.9, 500) for _ in range(5)] + [rng.uniform(-90, 90, 500) for _ in range(4)]
    low, high = fold(samples, spec).range(RangeMethod.MOST_COMMON, spec, OPTIONS)
    params = affine_params(low, high, spec)
    assert position_of(params.scale) == best_position(histogram_of(samples[0]), spec)[0]
    assert high < 2


def test_of_equals_the_coarser_position_wins():
    samples = [np.array([0.9, -0.9]), np.array([90.0, -90.0])]
    assert fold(samples).range(RangeMethod.MOST_COMMON, S8, OPTIONS)[1] == pytest.approx(127, abs=1)


def test_without_votes_the_range_is_nothing():
    assert fold([np.zeros(3), np.zeros(0)]).range(RangeMethod.MOST_COMMON, S8, OPTIONS) == (0, 0)


def test_after_a_relu_the_range_begins_at_zero():
    samples = [np.maximum(np.random.default_rng(0).normal(size=400), 0) for _ in range(3)]
    assert fold(samples, U8).range(RangeMethod.MOST_COMMON, U8, OPTIONS)[0] == 0


def test_votes_for_another_type_are_refused():
    with pytest.raises(OptionError, match="are for int8, symmetric=True, not for int16"):
        fold([]).range(RangeMethod.MOST_COMMON, QuantSpec(qtype=INT16, symmetric=True), OPTIONS)
    with pytest.raises(OptionError, match="'position-votes' serves most-common, not 'mse'"):
        fold([]).range(RangeMethod.MSE, S8, OPTIONS)


def test_the_method_alone_asks_for_it():
    assert isinstance(empty_statistic(RangeMethod.MOST_COMMON), PositionVotes)
