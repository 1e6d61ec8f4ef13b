"""A solved weight as plain values and arrays, and back."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from vqonnx.core.blocks import CodebookBlocks, PackedWeight, QuantizedBlocks
from vqonnx.core.solved_weight import SolvedWeight

Array = npt.NDArray[np.generic]
Scalar = str | int | float | bool | None

_KINDS: Mapping[str, type[PackedWeight]] = {kind.__name__: kind for kind in (QuantizedBlocks, CodebookBlocks)}
_KIND, _PREFIX = "kind", "packed."


def arrays_of(solved: SolvedWeight) -> dict[str, Array]:
    """Its arrays by name; those of the packed weight begin with ``packed.``."""
    return {name: value for name, value in _values_of(solved).items() if isinstance(value, np.ndarray)}


def scalars_of(solved: SolvedWeight) -> dict[str, Scalar]:
    """Everything else, ready for JSON."""
    values = _values_of(solved)
    return {name: value for name, value in values.items() if not isinstance(value, np.ndarray)}


def joined(scalars: Mapping[str, Scalar], arrays: Mapping[str, Array]) -> SolvedWeight:
    """The weight that these are the parts of."""
    values: dict[str, Any] = {**scalars, **arrays}
    kind = _KINDS[values.pop(_KIND)]
    inner = {name.removeprefix(_PREFIX): values.pop(name) for name in list(values) if name.startswith(_PREFIX)}
    return SolvedWeight(packed=kind(**inner), **values)


def dtype_called(name: str) -> np.dtype[Any]:
    """The type of that name, numpy's or ml_dtypes'."""
    return np.dtype(getattr(ml_dtypes, name, name))


def _values_of(solved: SolvedWeight) -> dict[str, Any]:
    outer = {field.name: getattr(solved, field.name) for field in fields(solved)}
    packed = outer.pop("packed")
    inner = {_PREFIX + field.name: getattr(packed, field.name) for field in fields(packed)}
    return {_KIND: type(packed).__name__, **outer, **inner}
