"""SmoothQuant's factors: how much of an activation's channel ranges goes into the weights that read it."""

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


def smoothing_factors(activation: F64, weight: F64, alpha: float) -> F64:
    """What each channel of an activation is divided by, and the weights that read it multiplied.

    ``max|X_j|^alpha / max|W_j|^(1 - alpha)`` (Xiao et al. 2023, arXiv:2211.10438, equation 4).

    Args:
        activation: [K], >= 0, largest magnitude in each channel.
        weight: [K], >= 0, that in each row of the weights.
        alpha: Share of the activation, in [0, 1].

    Returns:
        [K], > 0; 1 where either is 0.
    """
    factors = np.ones_like(activation)
    live = (activation > 0) & (weight > 0) & np.isfinite(activation)
    factors[live] = activation[live] ** alpha / weight[live] ** (1 - alpha)
    return factors
