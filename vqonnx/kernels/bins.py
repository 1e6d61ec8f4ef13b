"""A histogram as plain arrays, and what every range method needs of it."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Range = tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """Counts of a tensor's elements; bin ``offset + i`` is [(offset + i) * width, (offset + i + 1) * width).

    Attributes:
        counts: int64 [n]; the first and the last bin hold ``low`` and ``high``.
        offset: Number of the first bin.
        exponent: ``width = 2**exponent``.
        low: Smallest element; inf when there is none.
        high: Largest element; -inf when there is none.
    """

    counts: npt.NDArray[np.int64]
    offset: int
    exponent: int
    low: float
    high: float

    @property
    def width(self) -> float:
        """Width of a bin, in the tensor's unit."""
        return math.ldexp(1.0, self.exponent)


def with_zero(low: float, high: float, *, symmetric: bool) -> Range:
    """[low, high] widened to hold zero, and to be centred on it when symmetric; (inf, -inf), nothing, gives (0, 0)."""
    low, high = min(low, 0.0), max(high, 0.0)
    return (min(low, -high), max(high, -low)) if symmetric else (low, high)


def folded(bins: Bins) -> Bins:
    """The histogram of magnitudes: bin -1 - k joins bin k."""
    _, high = with_zero(bins.low, bins.high, symmetric=True)
    numbers = bins.offset + np.arange(bins.counts.size)
    places = np.where(numbers < 0, -1 - numbers, numbers)
    counts = np.bincount(places, weights=bins.counts).astype(np.int64)
    least = 0.0 if bins.low <= 0 <= bins.high else min(abs(bins.low), abs(bins.high))
    return Bins(counts, 0, bins.exponent, least, high)
