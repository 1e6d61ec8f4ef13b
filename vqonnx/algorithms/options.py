"""Options of an algorithm as users give them: by name, checked against its dataclass."""

import types
from collections.abc import Iterable, Mapping
from dataclasses import fields
from enum import Enum
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np

from vqonnx.algorithms.base import Algorithm
from vqonnx.errors import OptionError, nearest

O = TypeVar("O")  # noqa: E741 - the options of an algorithm


def options_for(algorithm: Algorithm[O], given: Mapping[str, object] | object | None = None) -> O:
    """The options of ``algorithm``.

    Args:
        algorithm: Whose options.
        given: Values by name (an enumeration's member or its value, a list where several are taken), the finished
            options, or None for the defaults.

    Raises:
        OptionError: A name is unknown or has a value of the wrong type or out of range, or the options are those of
            another algorithm.
    """
    if isinstance(given, algorithm.options):
        return given
    if given is not None and not isinstance(given, Mapping):
        raise OptionError(
            f"the options of algorithm {algorithm.name!r} are a dictionary or {algorithm.options.__name__}, "
            f"got {type(given).__name__}",
            option="options",
        )
    known = get_type_hints(algorithm.options)
    values = {name: _checked(algorithm, name, value, known) for name, value in (given or {}).items()}
    return algorithm.options(**values)


def _checked(algorithm: Algorithm[Any], name: str, value: object, known: Mapping[str, Any]) -> object:
    if name not in known:
        names = [field.name for field in fields(algorithm.options)]
        raise OptionError(
            f"algorithm {algorithm.name!r} has no option {name!r}{nearest(name, names)}; "
            f"it has {', '.join(names) or 'none'}.",
            option=name,
        )
    found = _converted(value, known[name])
    if found is _MISFIT:
        raise OptionError(
            f"option {name!r} of algorithm {algorithm.name!r} takes {_described(known[name])}, got {value!r}",
            option=name,
        )
    return found


_MISFIT = object()
"""What a value becomes that has the wrong type."""

_KINDS: dict[type, tuple[type, ...]] = {
    bool: (bool, np.bool_),
    int: (int, np.integer),
    float: (int, float, np.integer, np.floating),
}
"""What is taken for a type; True is no number."""


def _converted(value: object, wanted: Any) -> object:
    """``value`` as a ``wanted``, or ``_MISFIT``."""
    if get_origin(wanted) in (Union, types.UnionType):
        found = (_converted(value, kind) for kind in get_args(wanted))
        return next((one for one in found if one is not _MISFIT), _MISFIT)
    if get_origin(wanted) is tuple:
        return _all_converted(value, get_args(wanted)[0])
    if issubclass(wanted, Enum):
        return next((member for member in wanted if value in (member, member.value)), _MISFIT)
    fits = isinstance(value, _KINDS.get(wanted, (wanted,)))
    if not fits or (wanted is not bool and isinstance(value, bool)):
        return _MISFIT
    return wanted(value) if wanted in _KINDS else value


def _all_converted(value: object, wanted: Any) -> object:
    if isinstance(value, str) or not isinstance(value, Iterable):
        return _MISFIT
    found = tuple(_converted(one, wanted) for one in cast("Iterable[object]", value))
    return _MISFIT if _MISFIT in found else found


_PLAIN = {bool: "True or False", int: "a whole number", float: "a number", str: "a text", type(None): "None"}


def _described(wanted: Any) -> str:
    """What an option takes, in words."""
    if get_origin(wanted) in (Union, types.UnionType):
        return " or ".join(_described(kind) for kind in get_args(wanted))
    if get_origin(wanted) is tuple:
        return f"several, each {_described(get_args(wanted)[0])}"
    if issubclass(wanted, Enum):
        return f"one of {', '.join(repr(member.value) for member in wanted)}"
    return _PLAIN.get(wanted) or str(wanted.__name__)
