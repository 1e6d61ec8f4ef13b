import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqonnx.calibration.statistics import empty_statistic
from vqonnx.calibration.statistics.histogram import Histogram
from vqonnx.calibration.statistics.profile import Profile
from vqonnx.core.qtype import UINT8
from vqonnx.core.spec import QuantSpec, RangeMethod
from vqonnx.kernels.ranges import RangeOptions

SPEC, OPTIONS = QuantSpec(qtype=UINT8), RangeOptions()
SAMPLES = st.lists(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20), min_size=1, max_size=6)


def _profile(samples):
    total = Profile()
    for sample in samples:
        total = total.merge(Profile().of(np.array(sample, np.float32)))
    return total


@given(samples=SAMPLES)
def test_the_mean_range_is_that_of_the_samples_ends(samples):
    low, high = _profile(samples).range(RangeMethod.MEAN, SPEC, OPTIONS)
    arrays = [np.array(sample, np.float32) for sample in samples]
    np.testing.assert_allclose(low, min(0, np.mean([float(a.min()) for a in arrays])), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(high, max(0, np.mean([float(a.max()) for a in arrays])), rtol=1e-9, atol=1e-12)


@given(samples=SAMPLES)
def test_the_counts_are_those_of_a_histogram(samples):
    histogram = Histogram().of(np.concatenate([np.array(sample, np.float32) for sample in samples]))
    profile = _profile(samples)
    np.testing.assert_array_equal(profile.counts, histogram.counts)
    for method in Histogram.methods:
        assert profile.range(method, SPEC, OPTIONS) == histogram.range(method, SPEC, OPTIONS)


def test_a_sample_without_elements_changes_nothing():
    profile = Profile().of(np.array([1.0, 3.0], np.float32)).merge(Profile().of(np.zeros((0,), np.float32)))
    assert profile.range(RangeMethod.MEAN, SPEC, OPTIONS) == (0.0, 3.0)


def test_arrays_round_trip():
    profile = _profile([[1.0, -2.0], [5.0]])
    again = Profile.from_arrays(profile.arrays())
    assert (again.lows, again.highs, again.samples) == (profile.lows, profile.highs, profile.samples)


@pytest.mark.parametrize("method", [RangeMethod.MEAN])
def test_the_method_alone_asks_for_it(method):
    assert isinstance(empty_statistic(method), Profile)
