"""SmoothQuant's factors balance activations and weights, and leave dead channels alone."""

import numpy as np
import pytest

from vqonnx.kernels.smooth import smoothing_factors


@pytest.mark.parametrize(("alpha", "activation", "weight"), [(0.0, 16.0, 1.0), (0.5, 4.0, 4.0), (1.0, 1.0, 16.0)])
def test_alpha_says_who_keeps_the_range(alpha: float, activation: float, weight: float) -> None:
    factors = smoothing_factors(np.array([8.0, 8.0]), np.array([2.0, 2.0]), alpha)
    np.testing.assert_allclose(8 / factors, activation)
    np.testing.assert_allclose(2 * factors, weight)


def test_channels_without_a_range_stay() -> None:
    factors = smoothing_factors(np.array([0.0, 4.0, np.inf, 4.0]), np.array([1.0, 0.0, 1.0, 1.0]), 0.5)
    np.testing.assert_array_equal(factors, [1, 1, 1, 2])
