"""How the elements are distributed over bins that any order of merging leaves the same."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np

from vqonnx.calibration.statistics.base import Array, Unordered, register
from vqonnx.calibration.survey import Span, Survey
from vqonnx.core.spec import QuantSpec, RangeMethod
from vqonnx.kernels.bins import Bins, Range
from vqonnx.kernels.histogram import MIN_EXPONENT, Counts, bin_exponent, bin_range, count_bins, min_max, widen
from vqonnx.kernels.ranges import HISTOGRAM_METHODS, RangeOptions, choose_range


@register
@dataclass(frozen=True, slots=True, eq=False)
class Histogram(Unordered):
    """Counts of bins [k * 2**exponent, (k + 1) * 2**exponent), zero being an edge.

    The exponent is the smallest at which all elements and zero span at most ``bins`` bins; so it follows from the
    ends alone, and merging is exact, associative and commutative.

    Attributes:
        counts: int64 [n], n <= bins; the first and the last bin hold the ends.
        offset: Number k of the first bin.
        exponent: Binary logarithm of the width of a bin.
        low: Smallest finite element; inf when there is none.
        high: Largest finite element; -inf when there is none.
        bins: Most bins that the elements and zero may span.
        dropped: NaN and infinite elements.
    """

    name: ClassVar[str] = "histogram"
    methods: ClassVar[tuple[RangeMethod, ...]] = HISTOGRAM_METHODS

    counts: Counts = field(default_factory=lambda: np.zeros(0, np.int64))
    offset: int = 0
    exponent: int = MIN_EXPONENT
    low: float = math.inf
    high: float = -math.inf
    bins: int = 2048
    dropped: int = 0

    def of(self, x: Array) -> Self:
        """Two passes over ``x``: the ends, then the counts."""
        low, high, lost = min_max(x)
        if low > high:
            return type(self)(bins=self.bins, dropped=lost)
        exponent = self._exponent(low, high)
        first, last = bin_range(low, high, exponent)
        counts = np.zeros(last - first + 1, np.int64)
        count_bins(x, exponent, first, counts)
        return type(self)(counts, first, exponent, low, high, self.bins, lost)

    def merge(self, other: Self) -> Self:
        """The sum of the counts, in bins wide enough for both."""
        low, high = min(self.low, other.low), max(self.high, other.high)
        dropped = self.dropped + other.dropped
        if low > high:
            return type(self)(bins=self.bins, dropped=dropped)
        exponent = self._exponent(low, high)
        first, last = bin_range(low, high, exponent)
        counts = np.zeros(last - first + 1, np.int64)
        for part in (self, other):
            widened, offset = widen(part.counts, part.offset, exponent - part.exponent)
            counts[offset - first : offset - first + widened.size] += widened
        return type(self)(counts, first, exponent, low, high, self.bins, dropped)

    def span(self) -> Span:
        """The counts, in bins as wide as they are here."""
        return Span(self.bins, self.low, self.high, self.exponent)

    def after(self, survey: Survey) -> Self:
        """The sum of the counts."""
        found = type(self)(
            survey.counts, survey.offset, survey.exponent, survey.low, survey.high, self.bins, sum(survey.lost)
        )
        return Histogram.merge(self, found)

    def range(self, method: RangeMethod, spec: QuantSpec, options: RangeOptions) -> Range:
        """The range that ``method`` chooses from the counts."""
        if method not in self.methods:
            raise self.no_range(method)
        return choose_range(method, self.as_bins(), spec, options)

    def as_bins(self) -> Bins:
        """The counts as the kernels take them."""
        return Bins(self.counts, self.offset, self.exponent, self.low, self.high)

    def _exponent(self, low: float, high: float) -> int:
        return bin_exponent(min(low, 0.0), max(high, 0.0), self.bins)
