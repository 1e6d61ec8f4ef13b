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


def edges(bins: Bins) -> npt.NDArray[np.float64]:
    """[n + 1] ends of the bins; the outermost are where the elements end."""
    grid = (bins.offset + np.arange(bins.counts.size + 1)) * bins.width
    clipped: npt.NDArray[np.float64] = np.clip(grid, bins.low, bins.high)
    return clipped


def clipped(bins: Bins, ends: Range) -> Bins:
    """The histogram of the elements clipped to ``ends``, which must overlap it: the bins at the ends hold the rest."""
    low, high = max(ends[0], bins.low), min(ends[1], bins.high)
    first, last = (math.floor(math.ldexp(end, -bins.exponent)) - bins.offset for end in (low, high))
    counts = bins.counts[first : last + 1].copy()
    counts[0] += bins.counts[:first].sum()
    counts[-1] += bins.counts[last + 1 :].sum()
    return Bins(counts, bins.offset + first, bins.exponent, low, high)
