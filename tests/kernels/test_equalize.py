import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vqonnx.kernels.equalize import bias_shrinkage, channel_factors, column_shares, pair_factors

SIZES = hnp.arrays(np.float64, 7, elements=st.sampled_from([0.0, 1e-30, 1e-3, 0.5, 1.0, 3.0, 17.0, 6e4]))
SHARES = hnp.arrays(np.float64, 7, elements=st.sampled_from([0.0, 1e-3, 0.25, 0.9, 1.0]))


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_shares_are_those_of_single_rows(groups, rng):
    weight = rng.normal(size=(2 * groups, 4, 3, 3))
    weight[0] = 0
    found = column_shares(weight, groups)
    for column in range(4 * groups):
        group, inside = divmod(column, 4)
        rows = [row for row in weight[2 * group : 2 * group + 2] if row.any()]
        expected = max(np.abs(row[inside]).max() / np.abs(row).max() for row in rows)
        assert found[column] == pytest.approx(expected)


def test_a_depthwise_conv_gives_one_and_an_unused_channel_nothing():
    weight = np.ones((4, 1, 3, 3))
    weight[2] = 0
    np.testing.assert_array_equal(column_shares(weight, 4), [1, 1, 0, 1])


@given(SIZES, SHARES, st.sampled_from([0.0, 0.5, 1.0]))
def test_factors_are_bounded_positive_and_leave_dead_channels(ranges, shares, alpha):
    factors = channel_factors(ranges, shares, alpha)
    dead = (ranges == 0) | (shares == 0)
    assert (factors[dead] == 1).all()
    assert (factors > 0).all()
    assert np.isfinite(factors).all()
    live = factors[~dead]
    if live.size:
        assert live.max() / live.min() <= 20**2 * (1 + 1e-9)
        assert (live * ranges[~dead]).max() <= ranges[~dead].max() * (1 + 1e-9)


@given(SIZES, SHARES)
def test_a_common_unit_of_the_ranges_changes_nothing(ranges, shares):
    np.testing.assert_allclose(
        channel_factors(ranges, shares, 0.5), channel_factors(4 * ranges, shares, 0.5), rtol=1e-9
    )


def test_factors_follow_the_formula_and_the_mean_is_one():
    ranges, shares = np.array([1.0, 4.0, 0.25, 2.0]), np.array([1.0, 1.0, 0.5, 0.25])
    found = channel_factors(ranges, shares, 0.5)
    wanted = np.sqrt(shares / ranges)
    np.testing.assert_allclose(found, wanted / np.exp(np.log(wanted).mean()))
    np.testing.assert_allclose(channel_factors(ranges, shares, 1.0) * ranges, np.exp(np.log(ranges).mean()))


@given(pairs=hnp.arrays(np.float64, (7, 2), elements=st.floats(1e-3, 1e3)))
def test_both_sides_of_a_pair_become_their_geometric_mean(pairs):
    head, tail = pairs.T
    factors = pair_factors(head, tail)
    np.testing.assert_allclose(head * factors, np.sqrt(head * tail))
    np.testing.assert_allclose(tail / factors, np.sqrt(head * tail))
    np.testing.assert_allclose(pair_factors(head * factors, tail / factors), 1)


def test_dead_and_small_channels_of_a_pair_stay():
    head, tail = np.array([0.0, 1.0, 0.1, 0.3]), np.array([1.0, 0.0, 0.2, 0.3])
    np.testing.assert_allclose(pair_factors(head, tail), [1, 1, np.sqrt(2), 1])
    np.testing.assert_array_equal(pair_factors(head, np.array([1.0, 0.0, 0.2, 1.2]), least=0.5)[:3], 1)


def test_pairs_along_a_chain_end_in_the_cube_root():
    """Conv, depthwise, pointwise: what the formula for three layers gives at once."""
    ranges = np.random.default_rng(0).uniform(0.1, 10, (3, 5))
    wanted = np.cbrt(ranges.prod(axis=0))
    for _ in range(30):
        for first in (0, 1):
            factors = pair_factors(ranges[first], ranges[first + 1])
            ranges[first] *= factors
            ranges[first + 1] /= factors
    np.testing.assert_allclose(ranges, np.broadcast_to(wanted, (3, 5)), rtol=1e-6)


@pytest.mark.parametrize(
    ("bias", "ranges", "shrinkage"),
    [
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], 2),
        ([1.0, 1.0, 1.0], [0.009, 0.009, 1.0], 5),  # median 111
        ([1.0, 0.0, 0.0], [1e-4, 1.0, 1.0], 5),  # mean 3333
        ([12.0, 0.0, 0.0], [1.0, 1.0, 1.0], 5),
        ([20.0, 20.0, 20.0], [1.0, 1.0, 1.0], 10),  # median 20
        ([12.0, 0.0, 0.0], [0.03, 1.0, 1.0], 10),  # mean 133
        ([40.0, 40.0, 40.0], [1.0, 1.0, 1.0], 20),  # median 40
        ([12.0, 0.0, 0.0], [0.005, 1.0, 1.0], 20),  # mean 800
        ([5.0, 0.0, 0.0], [0.2, 0.2, 0.2], 5),  # small, but 25 times the weights
        ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0], np.inf),
        ([1.0, 1.0, 1.0], [0.0, 0.0, 0.0], np.inf),
    ],
)
def test_large_biases_count_less(bias, ranges, shrinkage):
    assert bias_shrinkage(np.array(bias), np.array(ranges)) == shrinkage
