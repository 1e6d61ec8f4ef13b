"""Readers of option values: each gives the typed value, or raises ``OptionError`` with what the option takes."""

from collections.abc import Mapping, Sequence

import numpy as np

from vqonnx.errors import OptionError


def flag(key: str, value: object) -> bool:
    """A truth value."""
    if not isinstance(value, (bool, np.bool_)):
        raise wrong(key, "True or False", value)
    return bool(value)


def negated(key: str, value: object) -> bool:
    """The opposite of a truth value."""
    return not flag(key, value)


def number(key: str, value: object) -> float:
    """A number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise wrong(key, "a number", value)
    return float(value)


def whole(key: str, value: object) -> int | None:
    """A whole number, or None."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise wrong(key, "a whole number", value)
    return value


def numbers(key: str, value: object) -> tuple[float, ...]:
    """A list of numbers."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise wrong(key, "a list of numbers", value)
    return tuple(number(key, one) for one in value)


def names(key: str, value: object) -> tuple[str, ...] | None:
    """A list of operators, or None."""
    if value is None:
        return None
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise wrong(key, "a list of operators", value)
    return tuple(map(str, value))


def mapping(key: str, value: object) -> Mapping[str, object]:
    """A dictionary."""
    if not isinstance(value, Mapping):
        raise wrong(key, "a dictionary", value)
    return value


def text(key: str, value: object) -> str:
    """A name."""
    if not isinstance(value, str):
        raise wrong(key, "a name", value)
    return value


def wrong(key: str, taken: str, value: object) -> OptionError:
    """The error about a value of another kind than the option takes."""
    return OptionError(f"extra_options: {key!r} takes {taken}, got {value!r}.", option=key)
