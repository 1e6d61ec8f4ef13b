"""The squared error to expect when the elements of a histogram are clipped to a range and rounded.

Clipped elements count with their squared distance to the range; the others with step^2 / 12, the error of rounding what
is spread evenly; but elements within half a step of zero become exactly zero and count with their own square, which
matters after a Relu, where most elements are zero. Inside a bin elements are spread evenly.
"""

import numpy as np
import numpy.typing as npt

from vqonnx.kernels.bins import Bins, edges

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


def expected_errors(bins: Bins, ends: F64, steps: int) -> F64:
    """Sum of squared errors of each candidate range, [c].

    Args:
        bins: A histogram that is not empty.
        ends: [2, c] lower and upper ends of the candidates.
        steps: Steps from the lower to the upper end.
    """
    from vqonnx.kernels import searching

    grid = (bins.offset * bins.width, bins.width)
    return searching.squared_errors(ends, edges(bins), power_sums(bins), grid, steps)


def power_sums(bins: Bins) -> F64:
    """[3, n + 1] integrals of 1, t and t^2 over the density below each edge."""
    ends = edges(bins)
    left, right = ends[:-1], ends[1:]
    means = np.stack([np.ones_like(left), (left + right) / 2, (left * left + left * right + right * right) / 3])
    return np.concatenate([np.zeros((3, 1)), np.cumsum(means * bins.counts, axis=1)], axis=1)
