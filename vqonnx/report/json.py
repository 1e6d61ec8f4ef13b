"""The report as JSON and back, exactly: ``from_json(to_json(report)) == report``."""

import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import TypeVar

from vqonnx.errors import OptionError
from vqonnx.report.model import Report

SCHEMA = 1
_T = TypeVar("_T")


def to_json(report: Report) -> str:
    """The report as indented JSON; infinite figures become the strings "inf" and "-inf".

    ``warnings`` is added for readers; it follows from the rest and is not read back.
    """
    body = _encoded(report)
    return json.dumps({"schema": SCHEMA, **body, "warnings": list(report.warnings)}, indent=2, allow_nan=False)


def from_json(text: str) -> Report:
    """The report that ``to_json`` wrote.

    Raises:
        OptionError: The text is not JSON, of another schema, or not a report.
    """
    try:
        body = json.loads(text)
        if not isinstance(body, dict) or body.get("schema") != SCHEMA:
            raise ValueError(f"its schema is not {SCHEMA}")
        report = _decoded(body, Report)
    except (KeyError, TypeError, ValueError) as error:
        raise OptionError(
            f"not a report of vqonnx: {error}. Pass the file that `vqonnx quantize --json FILE` wrote.",
            option="report",
        ) from error
    assert isinstance(report, Report)
    return report


def _encoded(value: object) -> dict[str, object]:
    return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}  # type: ignore[arg-type]


def _plain(value: object) -> object:
    if is_dataclass(value):
        return _encoded(value)
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no infinity: a string that float() reads keeps every parser happy
    return value


def _decoded(value: object, kind: object) -> object:
    """``value`` read as the annotated type ``kind`` of a field."""
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(value, kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind[str(value)]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else _decoded(value, inner)
    if origin is tuple:
        return tuple(_decoded(item, arguments[0]) for item in _required(value, list))
    if origin is Mapping:
        return {key: _decoded(item, arguments[1]) for key, item in typing.cast(dict[str, object], value).items()}
    return _scalar(value, kind)


def _dataclass(value: object, kind: type) -> object:
    body = _required(value, dict)
    hints = typing.get_type_hints(kind)
    return kind(**{item.name: _decoded(body[item.name], hints[item.name]) for item in fields(kind)})


def _scalar(value: object, kind: object) -> object:
    if kind is float and isinstance(value, int | float | str):
        return float(value)
    assert isinstance(kind, type)
    return _required(value, kind)


def _required(value: object, kind: type[_T]) -> _T:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, got {value!r}")
    return value
