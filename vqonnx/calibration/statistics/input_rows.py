"""Some of what a product multiplies with its weight."""

from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from vqonnx.calibration.statistics.base import Array, Statistic, register
from vqonnx.core.spec import QuantSpec, RangeMethod
from vqonnx.errors import SampleError
from vqonnx.kernels.bins import Range
from vqonnx.kernels.patches import Window, patches, row_count
from vqonnx.kernels.ranges import RangeOptions

I64 = npt.NDArray[np.int64]

_GOLDEN = (5**0.5 - 1) / 2


def _no_window() -> I64:
    return np.zeros((5, 0), np.int64)


@register
@dataclass(frozen=True, slots=True, eq=False)
class InputRows(Statistic):
    """As many rows of each sample as are asked for, all of them if there are fewer; merging puts them in a row.

    Which rows are taken depends on their number alone, and they lie apart. Rows with NaN or infinity are left out.
    Merging is exact and associative but, as the order of rows shows, not commutative.

    Attributes:
        rows: float32 [n, K]; [0, 0] before the first sample.
        window: int64 [5, axes], the fields of ``Window``; without axes a tensor [..., K] is rows already.
        per_sample: Rows of a sample.
        dropped: NaN and infinite elements of the rows that were taken.
    """

    name: ClassVar[str] = "input-rows"
    shaped: ClassVar[bool] = True

    rows: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    window: I64 = field(default_factory=_no_window)
    per_sample: int = 64
    dropped: int = 0

    @classmethod
    def of_window(cls, window: Window | None, per_sample: int) -> Self:
        """The empty statistic for a Conv's window, or for a matrix product."""
        if window is None:
            return cls(per_sample=per_sample)
        numbers = (window.shape, window.strides, window.dilations, window.begins, window.ends)
        return cls(window=np.array(numbers, np.int64), per_sample=per_sample)

    def of(self, x: Array) -> Self:
        """Some rows of ``x``: [N, C, ...] with a window, [..., K] without."""
        axes = self.window.shape[1]
        if x.ndim != axes + 2 if axes else x.ndim < 1:
            raise SampleError(f"a tensor of shape {x.shape} has no windows of {axes} axes")
        found = self._windows(x) if axes else self._vectors(x)
        whole = np.isfinite(found).all(axis=1)
        kept = np.ascontiguousarray(found[whole], np.float32)
        return type(self)(kept, self.window, self.per_sample, int((~np.isfinite(found)).sum()))

    def merge(self, other: Self) -> Self:
        """This one's rows and then the other's."""
        dropped = self.dropped + other.dropped
        if not (self.rows.size and other.rows.size):
            rows = self.rows if self.rows.size else other.rows
        elif self.rows.shape[1] != other.rows.shape[1]:
            raise SampleError(
                f"rows have {self.rows.shape[1]} elements in one sample and {other.rows.shape[1]} in another"
            )
        else:
            rows = np.concatenate([self.rows, other.rows])
        return type(self)(rows, self.window, self.per_sample, dropped)

    def range(self, method: RangeMethod, spec: QuantSpec, options: RangeOptions) -> Range:
        """Some rows give no range of the tensor."""
        raise self.no_range(method)

    def _windows(self, x: Array) -> Array:
        shape, strides, dilations, begins, ends = (tuple(numbers) for numbers in self.window.tolist())
        window = Window(shape=shape, strides=strides, dilations=dilations, begins=begins, ends=ends)
        found = patches(x, window, self._chosen(row_count(x.shape, window)))  # type: ignore[arg-type]
        return found.reshape(found.shape[0], -1)

    def _vectors(self, x: Array) -> Array:
        vectors = x.reshape(-1, x.shape[-1])
        return vectors[self._chosen(vectors.shape[0])]

    def _chosen(self, count: int) -> I64:
        """Row numbers in ascending order: multiples of the golden ratio, which no regular pattern follows."""
        if count <= self.per_sample:
            return np.arange(count)
        places = np.modf(np.arange(1, self.per_sample + 1) * _GOLDEN)[0] * count
        return np.unique(places.astype(np.int64))
