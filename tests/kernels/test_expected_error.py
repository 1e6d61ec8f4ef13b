import numpy as np
import pytest

from vqonnx.kernels.constants import histogram_of
from vqonnx.kernels.expected_error import expected_errors, power_sums


def test_the_expected_error_is_nearly_that_of_the_elements(rng):
    x = np.maximum(rng.normal(size=100_000), -0.7).astype(np.float32)
    ends = np.array([[-1.0, -0.5, -0.7], [2.0, 3.0, 4.5]])
    found = expected_errors(histogram_of(x), ends, 15)
    for error, (low, high) in zip(found, ends.T, strict=True):
        step = (high - low) / 15
        clipped = np.clip(x, low, high)
        rounded = np.where(np.abs(x) <= step / 2, 0, clipped)
        noise = np.where((rounded == clipped) & (clipped == x), step * step / 12, np.square(rounded - x))
        assert error == pytest.approx(noise.sum(), rel=0.01)


def test_power_sums_are_those_of_evenly_filled_bins():
    bins = histogram_of(np.array([0.25, 0.25, 1.75], np.float32), 2)
    grid = np.linspace(0, 1, 20_001)
    even = [bins.low + grid * (1 - bins.low), 1 + grid * (bins.high - 1)]
    for power in range(3):
        exact = 2 * np.mean(even[0] ** power) + np.mean(even[1] ** power)
        assert power_sums(bins)[power, -1] == pytest.approx(exact, rel=1e-4)
