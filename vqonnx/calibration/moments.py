"""Second moments of a layer's inputs over samples: what GPTQ and AWQ ask of the data."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from vqonnx.calibration.feeds import Array
from vqonnx.calibration.samples import Samples
from vqonnx.errors import SampleError
from vqonnx.kernels.blocks.hessian import accumulate

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

_LEAST_BATCH = 1024


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InputMoments:
    """Second moments of the inputs x of a layer y = x W.

    Attributes:
        calibration: sum of x x^T over the calibration samples, float64 [K, K], read-only.
        rows: Number of inputs in it.
        held_back: The same over the samples that are held back; the very same array where there are too few samples to
            hold any back, None where it was not asked for.
        held_back_rows: Number of inputs in that.
    """

    calibration: F64
    rows: int
    held_back: F64 | None = None
    held_back_rows: int = 0


@dataclass(frozen=True, slots=True)
class SampleSplit:
    """Which samples are summed up where, by number.

    Attributes:
        calibration: Those that calibrate.
        held_back: Those that are held back; none where that is not wanted.
    """

    calibration: frozenset[int]
    held_back: frozenset[int]

    @classmethod
    def of(cls, samples: Samples, *, held_back: bool) -> "SampleSplit":
        """The split that ``samples`` have."""
        return cls(frozenset(samples.calibration.indices), frozenset(samples.held_back.indices if held_back else ()))

    @property
    def numbers(self) -> list[int]:
        """All samples of either kind, in order."""
        return sorted(self.calibration | self.held_back)

    @property
    def sums(self) -> int:
        """Sums that are made: one where all samples both calibrate and are held back, or none is held back."""
        return 2 if self.held_back and self.held_back != self.calibration else 1


class MomentSums:
    """The moments of one layer's input, of samples that come in order."""

    def __init__(self, features: int, split: SampleSplit) -> None:
        self._split = split
        self._calibration = _Sum(features)
        self._held_back = _Sum(features) if split.sums == 2 else self._calibration

    def add(self, sample: int, rows: F32) -> None:
        """Add the inputs of a sample, finite rows [R, K]; they are kept for a while, not copied."""
        if sample in self._split.calibration:
            self._calibration.add(rows)
        if sample in self._split.held_back and self._held_back is not self._calibration:
            self._held_back.add(rows)

    def result(self, tensor: str) -> InputMoments:
        """The moments; nothing can be added afterwards.

        Raises:
            SampleError: Squares overflow float32; ``tensor`` names the input.
        """
        for total in (self._calibration, self._held_back):
            if not np.isfinite(np.diagonal(total.result())).all():
                raise SampleError(
                    f"tensor {tensor!r} has values whose squares exceed float32; drop the samples with them",
                    tensor=tensor,
                )
        return InputMoments(
            calibration=self._calibration.result(),
            rows=self._calibration.rows,
            held_back=self._held_back.result() if self._split.held_back else None,
            held_back_rows=self._held_back.rows if self._split.held_back else 0,
        )


class _Sum:
    """sum of x x^T over rows that come piece by piece.

    Rows wait until there are about as many as features, since an addition to H costs as much as K / 3 rows. The result
    depends on the pieces and their order, not on the number of threads.
    """

    def __init__(self, features: int) -> None:
        self._moment = np.zeros((features, features))
        self._batch = batch_rows(features)
        self._waiting: list[F32] = []
        self._count = 0
        self.rows = 0

    def add(self, rows: F32) -> None:
        if self._count and self._count + len(rows) > self._batch:
            self._flush()
        self._waiting.append(rows)
        self._count += len(rows)
        self.rows += len(rows)

    def result(self) -> F64:
        self._flush()
        self._moment.flags.writeable = False
        return self._moment

    def _flush(self) -> None:
        if self._count:
            accumulate(self._moment, self._waiting[0] if len(self._waiting) == 1 else np.concatenate(self._waiting))
        self._waiting, self._count = [], 0


def batch_rows(features: int) -> int:
    """Rows that wait before they are multiplied."""
    return max(_LEAST_BATCH, features)


def finite_rows(
    array: Array, features: int, axis: int, *, tensor: str, sample: int, nonfinite: Literal["error", "ignore"]
) -> F32:
    """An activation as rows of inputs, float32 [R, K].

    Args:
        array: The activation, any float type.
        features: K.
        axis: Axis of the K features; all others count as rows.
        tensor: Its name, for messages.
        sample: Number of its sample, for messages.
        nonfinite: Whether rows with NaN or infinity are an error or left out.

    Raises:
        SampleError: The axis is missing or of another length, or an element is not finite in float32.
    """
    if not -array.ndim <= axis < array.ndim or array.shape[axis] != features:
        raise SampleError(
            f"tensor {tensor!r} has shape {array.shape} in calibration sample {sample}, but the layer that reads it "
            f"multiplies {features} features along axis {axis}. The sample does not fit the model: repair or drop it",
            sample=sample,
            tensor=tensor,
        )
    with np.errstate(over="ignore"):
        rows: F32 = np.ascontiguousarray(np.moveaxis(array, axis, -1), np.float32).reshape(-1, features)
    finite = np.isfinite(rows)
    if finite.all():
        return rows
    if nonfinite == "ignore":
        return rows[finite.all(axis=1)]
    raise SampleError(
        f"tensor {tensor!r} has {finite.size - np.count_nonzero(finite)} NaN or infinite elements in calibration "
        f"sample {sample}; repair or drop the sample, or exclude the layers that read it (nodes_to_exclude)",
        sample=sample,
        tensor=tensor,
    )
