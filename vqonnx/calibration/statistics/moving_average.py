"""A moving average of each sample's smallest and largest element."""

import math
from dataclasses import dataclass
from typing import ClassVar, Self

from vqonnx.calibration.statistics.base import Array, Unordered, register
from vqonnx.calibration.survey import Span, Survey
from vqonnx.core.spec import QuantSpec, RangeMethod
from vqonnx.kernels.bins import Range, with_zero
from vqonnx.kernels.histogram import min_max
from vqonnx.kernels.ranges import RangeOptions


@register
@dataclass(frozen=True, slots=True)
class MovingAverage(Unordered):
    """``average += rate * (sample - average)``, from the first sample on, in sample order.

    A sample is one feed (ONNX Runtime's tool averages the feeds of one call evenly and moves only between calls). A
    sample without finite elements changes nothing. Merging is associative up to rounding but, since the latest
    samples weigh most, not commutative: n samples map an average a to their own average plus
    (1 - rate)^n * (a - their first sample), which is what ``merge`` computes.

    Attributes:
        low: Average of the smallest elements; inf when there is none.
        high: Average of the largest elements; -inf when there is none.
        first_low: Smallest element of the first sample.
        first_high: Largest element of the first sample.
        samples: Samples with finite elements.
        rate: Weight of the newest sample, in (0, 1].
        dropped: NaN and infinite elements.
    """

    name: ClassVar[str] = "moving-average"
    methods: ClassVar[tuple[RangeMethod, ...]] = (RangeMethod.MOVING_AVERAGE,)

    low: float = math.inf
    high: float = -math.inf
    first_low: float = math.inf
    first_high: float = -math.inf
    samples: int = 0
    rate: float = 0.01
    dropped: int = 0

    def of(self, x: Array) -> Self:
        """One pass over ``x``, the tensor of one sample."""
        low, high, lost = min_max(x)
        return type(self)(low, high, low, high, int(low <= high), self.rate, lost)

    def merge(self, other: Self) -> Self:
        """This one's average, moved by the samples of ``other``."""
        dropped = self.dropped + other.dropped
        if not (self.samples and other.samples):
            known = self if self.samples else other
            return type(self)(
                known.low, known.high, known.first_low, known.first_high, known.samples, self.rate, dropped
            )
        kept = (1 - self.rate) ** other.samples
        return type(self)(
            other.low + kept * (self.low - other.first_low),
            other.high + kept * (self.high - other.first_high),
            self.first_low,
            self.first_high,
            self.samples + other.samples,
            self.rate,
            dropped,
        )

    def span(self) -> Span:
        """The ends."""
        return Span()

    def after(self, survey: Survey) -> Self:
        """The average, moved by one sample after the other."""
        moved = self
        for low, high, lost in zip(survey.lows, survey.highs, survey.lost, strict=True):
            moved = moved.merge(type(self)(low, high, low, high, int(low <= high), self.rate, lost))
        return moved

    def range(self, method: RangeMethod, spec: QuantSpec, options: RangeOptions) -> Range:
        """The averages, widened to hold zero."""
        if method not in self.methods:
            raise self.no_range(method)
        return with_zero(self.low, self.high, symmetric=spec.symmetric)
