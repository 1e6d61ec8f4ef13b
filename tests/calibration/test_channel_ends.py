"""Ends of each channel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vqonnx.calibration.statistics.channel_ends import ChannelEnds
from vqonnx.errors import SampleError

SAMPLES = st.lists(
    st.integers(0, 3).flatmap(
        lambda rows: hnp.arrays(np.float32, (rows, 2, 3), elements=st.sampled_from([-2, -0.5, 0, 3, np.nan, np.inf]))
    ),
    min_size=1,
    max_size=4,
)


@given(SAMPLES, st.sampled_from([1, -1, 5]), st.integers(0, 4))
def test_extremes_are_those_of_all_finite_elements(samples, axis, cut):
    one = ChannelEnds(axis=axis)
    parts = [ChannelEnds(axis=axis), ChannelEnds(axis=axis)]
    for number, sample in enumerate(samples):
        one = one.merge(one.of(sample))
        parts[number >= cut] = parts[number >= cut].merge(one.of(sample))
    rows = np.concatenate([np.moveaxis(sample, 1, 0).reshape(2, -1) for sample in samples], axis=1)
    rows = rows if axis == 1 else rows.reshape(1, -1)
    finite = np.isfinite(rows)
    low, high = one.ends
    np.testing.assert_array_equal(low, np.min(rows, axis=1, initial=np.inf, where=finite))
    np.testing.assert_array_equal(high, np.max(rows, axis=1, initial=-np.inf, where=finite))
    assert one.dropped == rows.size - finite.sum()
    np.testing.assert_array_equal(parts[0].merge(parts[1]).ends, one.ends)


@given(SAMPLES)
def test_means_leave_out_samples_without_finite_elements(samples):
    known = ChannelEnds(mean=True)
    for sample in samples:
        known = known.merge(known.of(sample))
    for channel in range(2):
        kept = [one[np.isfinite(one)] for one in (sample[:, channel] for sample in samples)]
        kept = [one for one in kept if one.size]
        expected = (
            (np.mean([one.min() for one in kept]), np.mean([one.max() for one in kept])) if kept else (np.inf, -np.inf)
        )
        assert tuple(end[channel] for end in known.ends) == pytest.approx(expected)


def test_the_number_of_channels_must_not_change():
    two, three = (ChannelEnds().of(np.zeros((1, channels), np.float32)) for channels in (2, 3))
    with pytest.raises(SampleError, match="2 channels in one sample and 3"):
        two.merge(three)
