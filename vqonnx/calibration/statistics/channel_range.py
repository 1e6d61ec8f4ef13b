"""The mean, over samples, of the largest magnitude in each channel; for equalization."""

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
class ChannelRange(Statistic):
    """Sums of each row's largest magnitudes; merging is commutative, and associative up to rounding.

    A row is one entry of axis 0, the batch; axis 1 holds the channels.

    Attributes:
        totals: float64 [C], sum over rows of the largest magnitude in the channel; [0] before the first sample.
        rows: Rows so far.
        dropped: NaN and infinite elements; they count as 0.
    """

    name: ClassVar[str] = "channel-range"
    shaped: ClassVar[bool] = True

    totals: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    rows: int = 0
    dropped: int = 0

    @property
    def means(self) -> npt.NDArray[np.float64]:
        """float64 [C], in the tensor's unit."""
        return self.totals / max(self.rows, 1)

    def of(self, x: Array) -> Self:
        """The largest magnitudes of ``x``, [N, C, ...]."""
        if x.ndim < 2:
            raise SampleError(f"a tensor of shape {x.shape} has no channel axis 1; choose a tensor of rank 2 or more")
        if not x.size:
            return type(self)()
        magnitudes = np.abs(x.reshape(*x.shape[:2], -1))
        finite = np.isfinite(magnitudes)
        dropped = magnitudes.size - int(np.count_nonzero(finite))
        kept = magnitudes if not dropped else np.where(finite, magnitudes, 0)
        return type(self)(kept.max(axis=2).sum(axis=0, dtype=np.float64), x.shape[0], dropped)

    def merge(self, other: Self) -> Self:
        """The sums of both; the number of channels must not change."""
        dropped = self.dropped + other.dropped
        if not (self.rows and other.rows):
            known = self if self.rows else other
            return type(self)(known.totals, known.rows, dropped)
        if self.totals.size != other.totals.size:
            raise SampleError(
                f"axis 1 has {self.totals.size} channels in one sample and {other.totals.size} in another; "
                "a range of each channel needs the same number in every sample"
            )
        return type(self)(self.totals + other.totals, self.rows + other.rows, dropped)

    def range(self, method: RangeMethod, spec: QuantSpec, options: RangeOptions) -> Range:
        """Means of samples' ranges of single channels give no range of the tensor."""
        raise self.no_range(method)
