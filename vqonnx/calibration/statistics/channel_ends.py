"""Smallest and largest element of each channel, or of the whole tensor: over all samples, or those of a mean sample."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from vqonnx.calibration.statistics.base import Array, Statistic, register
from vqonnx.core.spec import QuantSpec, RangeMethod
from vqonnx.errors import SampleError
from vqonnx.kernels.bins import Range
from vqonnx.kernels.ranges import RangeOptions

F64 = npt.NDArray[np.float64]
_WHOLE = -1


@register
@dataclass(frozen=True, slots=True, eq=False)
class ChannelEnds(Statistic):
    """Ends of every channel; merging is exact without ``mean``, and up to rounding with it.

    Attributes:
        lows: float64 [C], smallest finite elements: the least of all samples (inf where there is none), or the
            sum of the samples'.
        highs: float64 [C], largest ones.
        samples: int64 [C], samples with finite elements.
        axis: The channel axis; -1 takes the whole tensor for one channel, and so does a tensor without the axis.
        mean: Whether the samples' ends are added up, to be averaged.
        dropped: NaN and infinite elements.
    """

    name: ClassVar[str] = "channel-ends"
    shaped: ClassVar[bool] = True

    lows: F64 = field(default_factory=lambda: np.zeros(0))
    highs: F64 = field(default_factory=lambda: np.zeros(0))
    samples: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    axis: int = 1
    mean: bool = False
    dropped: int = 0

    @property
    def ends(self) -> tuple[F64, F64]:
        """Lows and highs, float64 [C]; (inf, -inf) for a channel without finite elements, [0] before any sample."""
        if not self.mean:
            return self.lows, self.highs
        seen = np.maximum(self.samples, 1)
        none = self.samples == 0
        return np.where(none, np.inf, self.lows / seen), np.where(none, -np.inf, self.highs / seen)

    def of(self, x: Array) -> Self:
        """The ends of ``x``."""
        whole = self.axis == _WHOLE or x.ndim <= self.axis
        rows = x.reshape(1, -1) if whole else np.moveaxis(x, self.axis, 0).reshape(x.shape[self.axis], -1)
        finite = np.isfinite(rows)
        lows = np.min(rows, axis=1, initial=np.inf, where=finite).astype(np.float64)
        highs = np.max(rows, axis=1, initial=-np.inf, where=finite).astype(np.float64)
        seen = np.isfinite(lows)
        if self.mean:
            lows, highs = np.where(seen, lows, 0.0), np.where(seen, highs, 0.0)
        dropped = rows.size - int(np.count_nonzero(finite))
        return replace(self, lows=lows, highs=highs, samples=seen.astype(np.int64), dropped=dropped)

    def merge(self, other: Self) -> Self:
        """The ends of both, or the sums; the number of channels must not change."""
        dropped = self.dropped + other.dropped
        if not (self.lows.size and other.lows.size):
            return replace(self if self.lows.size else other, dropped=dropped)
        if self.lows.size != other.lows.size:
            raise SampleError(
                f"axis {self.axis} has {self.lows.size} channels in one sample and {other.lows.size} in another; "
                "a range of each channel needs the same number in every sample"
            )
        low, high = (np.add, np.add) if self.mean else (np.minimum, np.maximum)
        return replace(
            self,
            lows=low(self.lows, other.lows),
            highs=high(self.highs, other.highs),
            samples=np.add(self.samples, other.samples),
            dropped=dropped,
        )

    def range(self, method: RangeMethod, spec: QuantSpec, options: RangeOptions) -> Range:
        """Ranges of single channels give none of the tensor."""
        raise self.no_range(method)
