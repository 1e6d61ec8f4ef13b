"""Number, sum and sum of squares of the elements."""

from dataclasses import dataclass
from typing import ClassVar, Self

from vqonnx.calibration.statistics.base import Array, Statistic, register
from vqonnx.core.spec import QuantSpec, RangeMethod
from vqonnx.kernels.bins import Range
from vqonnx.kernels.histogram import moments
from vqonnx.kernels.ranges import RangeOptions, distribution_range


@register
@dataclass(frozen=True, slots=True)
class Moments(Statistic):
    """Sums in double precision; merging is commutative, and associative up to rounding.

    Attributes:
        count: Finite elements.
        total: Their sum.
        squares: Sum of their squares.
        dropped: NaN and infinite elements.
    """

    name: ClassVar[str] = "moments"
    methods: ClassVar[tuple[RangeMethod, ...]] = (RangeMethod.DISTRIBUTION,)

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    dropped: int = 0

    def of(self, x: Array) -> Self:
        """One pass over ``x``."""
        count, total, squares = moments(x)
        return type(self)(count, total, squares, x.size - count)

    def merge(self, other: Self) -> Self:
        """The sums of both."""
        return type(self)(
            self.count + other.count,
            self.total + other.total,
            self.squares + other.squares,
            self.dropped + other.dropped,
        )

    def range(self, method: RangeMethod, spec: QuantSpec, options: RangeOptions) -> Range:
        """The range whose scale makes the codes of a float type spread as the elements do."""
        if method not in self.methods:
            raise self.no_range(method)
        return distribution_range((self.count, self.total, self.squares), spec)
