"""The mean of each channel, for bias correction."""

from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from vqonnx.calibration.statistics.base import Array, Statistic, register
from vqonnx.core.spec import QuantSpec, RangeMethod
from vqonnx.errors import SampleError
from vqonnx.kernels.bins import Range
from vqonnx.kernels.ranges import RangeOptions


@register
@dataclass(frozen=True, slots=True, eq=False)
class ChannelMean(Statistic):
    """Sums over all axes but one; merging is commutative, and associative up to rounding.

    Attributes:
        totals: float64 [C], sum of each channel; [0] before the first sample.
        counts: int64 [C], finite elements of each channel.
        axis: The channel axis, counted from the end if negative.
        dropped: NaN and infinite elements.
    """

    name: ClassVar[str] = "channel-mean"
    shaped: ClassVar[bool] = True

    totals: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    axis: int = 1
    dropped: int = 0

    @property
    def means(self) -> npt.NDArray[np.float64]:
        """float64 [C]; 0 for a channel without elements."""
        return self.totals / np.maximum(self.counts, 1)

    def of(self, x: Array) -> Self:
        """The sums of ``x``, which has the axis."""
        if not -x.ndim <= self.axis < x.ndim:
            raise SampleError(
                f"a tensor of shape {x.shape} has no channel axis {self.axis}; choose an axis that it has"
            )
        if not x.size:
            return type(self)(axis=self.axis)
        rows = np.moveaxis(x, self.axis, 0).reshape(x.shape[self.axis], -1)
        finite = np.isfinite(rows)
        counts = np.count_nonzero(finite, axis=1)
        dropped = rows.size - int(counts.sum())
        kept = rows if not dropped else np.where(finite, rows, 0)
        return type(self)(kept.sum(axis=1, dtype=np.float64), counts, self.axis, dropped)

    def merge(self, other: Self) -> Self:
        """The sums of both; the number of channels must not change."""
        if not (self.totals.size and other.totals.size):
            known = self if self.totals.size else other
            return type(self)(known.totals, known.counts, self.axis, self.dropped + other.dropped)
        if self.totals.size != other.totals.size:
            raise SampleError(
                f"axis {self.axis} has {self.totals.size} channels in one sample and {other.totals.size} in another; "
                "a mean of each channel needs the same number in every sample"
            )
        return type(self)(
            self.totals + other.totals, self.counts + other.counts, self.axis, self.dropped + other.dropped
        )

    def range(self, method: RangeMethod, spec: QuantSpec, options: RangeOptions) -> Range:
        """Means give no range."""
        raise self.no_range(method)
