"""Smallest and largest element over all samples."""

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
class MinMax(Unordered):
    """Exact ends; merging is associative and commutative.

    Attributes:
        low: Smallest finite element; inf when there is none.
        high: Largest finite element; -inf when there is none.
        count: Finite elements.
        dropped: NaN and infinite elements.
    """

    name: ClassVar[str] = "minmax"
    methods: ClassVar[tuple[RangeMethod, ...]] = (RangeMethod.MIN_MAX,)

    low: float = math.inf
    high: float = -math.inf
    count: int = 0
    dropped: int = 0

    def of(self, x: Array) -> Self:
        """One pass over ``x``."""
        low, high, lost = min_max(x)
        return type(self)(low, high, x.size - lost, lost)

    def merge(self, other: Self) -> Self:
        """The union of the two intervals."""
        return type(self)(
            min(self.low, other.low),
            max(self.high, other.high),
            self.count + other.count,
            self.dropped + other.dropped,
        )

    def span(self) -> Span:
        """The ends."""
        return Span()

    def after(self, survey: Survey) -> Self:
        """The union of the intervals."""
        lost = sum(survey.lost)
        return self.merge(type(self)(survey.low, survey.high, sum(survey.sizes) - lost, lost))

    def range(self, method: RangeMethod, spec: QuantSpec, options: RangeOptions) -> Range:
        """All that was observed."""
        if method not in self.methods:
            raise self.no_range(method)
        return with_zero(self.low, self.high, symmetric=spec.symmetric)
