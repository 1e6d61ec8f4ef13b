"""One calibration sample, checked against the model's inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vqonnx.errors import SampleError, nearest

Array = npt.NDArray[np.generic]
Feed = Mapping[str, Array]
"""The value of each graph input, by name."""


@dataclass(frozen=True, slots=True)
class ModelInput:
    """What the model says of one graph input.

    Attributes:
        name: Its name.
        dtype: The numpy type of its elements; object for strings.
        shape: A number for each fixed axis and None for each free one; None when the rank is not known.
        required: Whether it has no default (an initializer of the same name).
    """

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int | None, ...] | None
    required: bool = True


def checked(feed: object, inputs: Sequence[ModelInput], sample: int, *, finite: bool = True) -> Feed:
    """``feed`` with its arrays in the dtypes of ``inputs``; arrays that already fit are the same objects.

    A dtype is converted when no value changes, or when both are floating (float64 to float32 rounds) and no value
    overflows.

    Args:
        feed: What the reader gave: a mapping from input names to arrays.
        inputs: The model's inputs.
        sample: Index of the feed, for messages.
        finite: Refuse NaN and infinity.

    Raises:
        SampleError: It is no mapping, an input is missing, unknown, of another rank, size or dtype, or not finite.
    """
    if not isinstance(feed, Mapping):
        raise SampleError(
            f"calibration sample {sample} is a {type(feed).__name__}, not a mapping from input names to arrays; "
            f"yield a dict with the keys {_names(inputs)}",
            sample=sample,
        )
    by_name = {info.name: info for info in inputs}
    for name in feed:
        if name not in by_name:
            raise SampleError(
                f"calibration sample {sample} has a value for {name!r}, which is not an input of the model"
                f"{nearest(str(name), by_name)}; the inputs are {_names(inputs)}",
                sample=sample,
                tensor=str(name),
            )
    for info in inputs:
        if info.required and info.name not in feed:
            raise SampleError(
                f"calibration sample {sample} has no value for input {info.name!r}; it has {sorted(feed)}, and the "
                f"model needs {_names(inputs)}",
                sample=sample,
                tensor=info.name,
            )
    return {info.name: _fitting(feed[info.name], info, sample, finite) for info in inputs if info.name in feed}


def _fitting(value: object, info: ModelInput, sample: int, finite: bool) -> Array:
    array = np.asarray(value)
    where = f"input {info.name!r} of calibration sample {sample}"
    if info.shape is not None and not _shape_fits(array.shape, info.shape):
        wanted = ", ".join("any" if size is None else str(size) for size in info.shape)
        raise SampleError(
            f"{where} has shape {array.shape}, but the model wants ({wanted}); reshape it or, if only the batch size "
            "differs, split it into several samples",
            sample=sample,
            tensor=info.name,
        )
    if info.dtype.kind == "O":
        return array
    converted = _converted(array, info.dtype)
    if converted is None:
        raise SampleError(
            f"{where} has dtype {array.dtype}, and its values do not fit the model's {info.dtype}; convert it with "
            f"array.astype('{info.dtype}') where it is made",
            sample=sample,
            tensor=info.name,
        )
    if finite and _is_float(info.dtype) and not np.isfinite(converted).all():
        raise SampleError(
            f"{where} holds NaN or infinity; drop this sample or repair what makes it",
            sample=sample,
            tensor=info.name,
        )
    return converted


def _shape_fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        size is None or size == given for given, size in zip(shape, wanted, strict=True)
    )


def _converted(array: Array, dtype: np.dtype[np.generic]) -> Array | None:
    """``array`` as ``dtype``; None when that would change values (beyond rounding between floating types)."""
    if array.dtype == dtype:
        return array
    if array.dtype.kind not in "biufV":
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        converted: Array = array.astype(dtype)
        if _is_float(array.dtype) and _is_float(dtype):
            return converted if np.array_equal(np.isfinite(array), np.isfinite(converted)) else None
        back = converted.astype(array.dtype)
    # The sign is compared too: -1 survives a round trip through uint64.
    same = np.array_equal(back, array) and np.array_equal(np.less(converted, 0), np.less(array, 0))
    return converted if same else None


def _is_float(dtype: np.dtype[np.generic]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"  # ml_dtypes' bfloat16 is of numpy's kind "V"


def _names(inputs: Sequence[ModelInput]) -> list[str]:
    return [info.name for info in inputs]
