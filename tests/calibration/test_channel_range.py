import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vqonnx.calibration.statistics import empty_statistic
from vqonnx.calibration.statistics.channel_range import ChannelRange
from vqonnx.core.qtype import UINT8
from vqonnx.core.spec import QuantSpec, RangeMethod
from vqonnx.errors import OptionError, SampleError
from vqonnx.kernels.ranges import RangeOptions

TENSORS = hnp.arrays(
    st.sampled_from([np.float16, np.float32]),
    st.tuples(st.integers(0, 3), st.just(2), st.integers(0, 4)),
    elements=st.floats(width=16, allow_nan=True, allow_infinity=True),
)
LISTS = st.lists(TENSORS, max_size=5)


def fold(tensors, empty=None):
    statistic = empty or ChannelRange()
    for x in tensors:
        statistic = statistic.merge(ChannelRange().of(x))
    return statistic


def assert_same(left, right):
    for name, array in left.arrays().items():
        np.testing.assert_allclose(array, right.arrays()[name], rtol=1e-12, err_msg=name)


@given(LISTS, LISTS)
def test_merging_is_a_commutative_monoid(a, b):
    x, y = fold(a), fold(b)
    assert_same(x.merge(y), fold(b, x))
    assert_same(x.merge(y), y.merge(x))
    assert_same(x.merge(ChannelRange()), x)
    assert_same(ChannelRange().merge(x), x)
    assert_same(ChannelRange.from_arrays(x.arrays()), x)


@given(LISTS)
def test_the_mean_of_each_rows_largest_magnitude(tensors):
    rows = [row.astype(np.float64) for x in tensors if x.size for row in x]
    kept = [np.where(np.isfinite(row), np.abs(row), 0).max(axis=1) for row in rows]
    found = fold(tensors)
    assert found.dropped == sum(int((~np.isfinite(x)).sum()) for x in tensors)
    if rows:
        np.testing.assert_allclose(found.means, np.mean(kept, axis=0), rtol=1e-12)
    else:
        assert found.means.size == 0


def test_a_vector_and_other_channels_are_refused():
    with pytest.raises(SampleError, match=r"shape \(4,\) has no channel axis 1; choose"):
        ChannelRange().of(np.ones(4))
    with pytest.raises(SampleError, match="axis 1 has 2 channels in one sample and 3 in another"):
        fold([np.ones((1, 2)), np.ones((1, 3))])


def test_it_is_found_by_name_and_gives_no_range():
    with pytest.raises(OptionError, match="statistic 'channel-range' serves no range method"):
        empty_statistic("channel-range").range(RangeMethod.MIN_MAX, QuantSpec(qtype=UINT8), RangeOptions())
