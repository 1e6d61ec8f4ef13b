"""Arguments that are one of a few values."""

from collections.abc import Mapping
from typing import TypeVar

from vqonnx.errors import OptionError, nearest
from vqonnx.report.figures import Level

T = TypeVar("T")

LEVELS: Mapping[object, Level] = {True: Level.COMPARED, False: Level.LOADED, "checker": Level.CHECKED}
"""What ``verify`` may be."""


def chosen(table: Mapping[object, T], value: object, option: str) -> T:
    """What ``value`` stands for in ``table``.

    Raises:
        OptionError: It is not there; the text lists what is.
    """
    if value not in table:
        known = ", ".join(map(repr, table))
        raise OptionError(
            f"{option}: {value!r} is none of {known}{nearest(str(value), map(str, table))}.", option=option
        )
    return table[value]
