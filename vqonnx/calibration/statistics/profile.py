"""A histogram together with the ends of an average sample: enough for every range method that adapts to data."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from vqonnx.calibration.statistics.base import Array, register
from vqonnx.calibration.statistics.histogram import Histogram
from vqonnx.calibration.survey import Survey
from vqonnx.core.spec import QuantSpec, RangeMethod
from vqonnx.kernels.bins import Range, with_zero
from vqonnx.kernels.ranges import HISTOGRAM_METHODS, RangeOptions


@register
@dataclass(frozen=True, slots=True, eq=False)
class Profile(Histogram):
    """The counts of ``Histogram``, and the sums of each sample's smallest and largest element.

    Merging is exact but for the rounding of these two sums, which fold in sample order.

    Attributes:
        lows: Sum of the samples' smallest elements.
        highs: Sum of their largest ones.
        samples: Samples with finite elements.
    """

    name: ClassVar[str] = "profile"
    methods: ClassVar[tuple[RangeMethod, ...]] = (*HISTOGRAM_METHODS, RangeMethod.MEAN)

    lows: float = 0.0
    highs: float = 0.0
    samples: int = 0

    def of(self, x: Array) -> Self:
        """As ``Histogram.of``; ``x`` is one sample."""
        counted = Histogram.of(self, x)
        if counted.low > counted.high:
            return counted
        return replace(counted, lows=counted.low, highs=counted.high, samples=1)

    def merge(self, other: Self) -> Self:
        """The sums of both."""
        return replace(
            Histogram.merge(self, other),
            lows=self.lows + other.lows,
            highs=self.highs + other.highs,
            samples=self.samples + other.samples,
        )

    def after(self, survey: Survey) -> Self:
        """The sums, each sample's ends added in turn."""
        lows, highs, samples = self.lows, self.highs, self.samples
        for low, high in zip(survey.lows, survey.highs, strict=True):
            if low <= high:
                lows, highs, samples = lows + low, highs + high, samples + 1
        return replace(Histogram.after(self, survey), lows=lows, highs=highs, samples=samples)

    def range(self, method: RangeMethod, spec: QuantSpec, options: RangeOptions) -> Range:
        """The ends of an average sample, or what ``method`` chooses from the counts."""
        if method is not RangeMethod.MEAN:
            return Histogram.range(self, method, spec, options)
        count = max(self.samples, 1)
        return with_zero(self.lows / count, self.highs / count, symmetric=spec.symmetric)
