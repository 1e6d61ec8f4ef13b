"""Sums of the differences of one output, over samples; arrays, sequences and maps alike."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from vqonnx.calibration.feeds import Array
from vqonnx.errors import VerificationError
from vqonnx.kernels.metrics import ErrorSums
from vqonnx.report.figures import OutputFigures


@dataclass(frozen=True, slots=True)
class OutputSums:
    """What the samples so far showed of one output; one without samples is the neutral element.

    Attributes:
        name: The output.
        free: For each axis, whether its size may depend on the data (number of detections …); None: any may.
        errors: Sums over the float elements.
        equal: Elements of other types that are equal.
        discrete: Elements of other types.
        other_shapes: Samples whose data-dependent shapes differed.
    """

    name: str
    free: tuple[bool, ...] | None = None
    errors: ErrorSums = ErrorSums()  # noqa: RUF009 - frozen
    equal: int = 0
    discrete: int = 0
    other_shapes: int = 0

    def add(self, reference: object, actual: object) -> "OutputSums":
        """These sums with one sample more.

        Raises:
            VerificationError: The structures or types differ, or the shapes in an axis that no data decides.
        """
        pairs = list(_pairs(self.name, reference, actual))
        for expected, given in pairs:
            self._require_alike(expected, given)
        if any(expected.shape != given.shape for expected, given in pairs):
            return replace(self, other_shapes=self.other_shapes + 1)
        sums = self
        for expected, given in pairs:
            sums = sums._with(expected, given)
        return sums

    def _with(self, expected: Array, given: Array) -> "OutputSums":
        if _is_float(expected):
            return replace(self, errors=self.errors.merge(ErrorSums.of(expected, given)))
        same = int(np.count_nonzero(expected == given))
        return replace(self, equal=self.equal + same, discrete=self.discrete + expected.size)

    def _require_alike(self, expected: Array, given: Array) -> None:
        if expected.dtype != given.dtype:
            raise _differs(self.name, "type", expected.dtype, given.dtype)
        free = (True,) * expected.ndim if self.free is None else self.free
        pairs = zip(expected.shape, given.shape, free, strict=False)
        if expected.ndim != given.ndim or any(a != b and not loose for a, b, loose in pairs):
            raise _differs(self.name, "shape", expected.shape, given.shape)

    def figures(self) -> OutputFigures:
        """The figures that follow from the sums."""
        errors = self.errors
        measured = errors.count + errors.broken
        return OutputFigures(
            name=self.name,
            elements=measured + self.discrete,
            sqnr_db=errors.sqnr_db if measured else None,
            cosine=errors.cosine if measured else None,
            max_abs_error=errors.max_abs_error if measured else None,
            mean_error=errors.mean_error if measured else None,
            equal=self.equal / self.discrete if self.discrete else None,
            broken=errors.broken,
            other_shapes=self.other_shapes,
        )


def _pairs(name: str, reference: object, actual: object) -> Iterator[tuple[Array, Array]]:
    """The arrays inside two values of one structure: an array, a list (sequence), a dict (map) or None."""
    if type(reference) is not type(actual):
        raise _differs(name, "kind", type(reference).__name__, type(actual).__name__)
    if isinstance(reference, list) and isinstance(actual, list):
        # Lengths first, as an array, so that loops which ran more often count as another shape.
        yield np.empty(len(reference), np.bool_), np.empty(len(actual), np.bool_)
        for expected, given in zip(reference, actual, strict=False):
            yield from _pairs(name, expected, given)
    elif isinstance(reference, Mapping) and isinstance(actual, Mapping):
        if reference.keys() != actual.keys():
            raise _differs(name, "set of keys", sorted(reference), sorted(actual))
        yield np.array(list(reference.values())), np.array([actual[key] for key in reference])
    elif reference is not None:
        yield np.asarray(reference), np.asarray(actual)


def _is_float(array: Array) -> bool:
    return "float" in array.dtype.name  # bfloat16 and float8 are not of numpy's kind "f"


def _differs(name: str, what: str, expected: object, given: object) -> VerificationError:
    return VerificationError(
        f"output {name!r} of the quantized model has another {what} than the float model's: {given} instead of "
        f"{expected}. Please report it; excluding the nodes before this output avoids it."
    )
