"""Protobuf's wire format (https://protobuf.dev/programming-guides/encoding): fields by their places in a message.

What is larger than memory, or should not be copied, is read and written field by field.
"""

from collections.abc import Iterator
from dataclasses import dataclass

_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_MORE = 0x80  # the bit of a varint's byte that says that more follow
_LONGEST = 64  # bits of a varint


class MalformedError(ValueError):
    """Bytes that are no protobuf message; parsing them the usual way says more."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message, by places in the file.

    Attributes:
        number: Which field.
        start: First byte of its tag.
        content: First byte of its content.
        stop: First byte behind it.
    """

    number: int
    start: int
    content: int
    stop: int


def fields(view: memoryview, start: int, stop: int) -> Iterator[Field]:
    """The fields of the message that lies from ``start`` to ``stop``, in order.

    Raises:
        MalformedError: There is no message.
    """
    position = start
    while position < stop:
        tag, content = _read_varint(view, position, stop)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, end = _read_varint(view, content, stop)
        elif kind == _LENGTH_DELIMITED:
            length, content = _read_varint(view, content, stop)
            end = content + length
        elif kind in (_FIXED32, _FIXED64):
            end = content + (4 if kind == _FIXED32 else 8)
        else:
            raise MalformedError(f"wire type {kind} at byte {position}")
        if end > stop:
            raise MalformedError(f"a field at byte {position} ends behind its message")
        yield Field(number, position, content, end)
        position = end


def _read_varint(view: memoryview, position: int, stop: int) -> tuple[int, int]:
    """The number, and the first byte behind it."""
    number = shift = 0
    while position < stop and shift < _LONGEST:
        byte = view[position]
        number |= (byte & (_MORE - 1)) << shift
        position, shift = position + 1, shift + 7
        if byte < _MORE:
            return number, position
    raise MalformedError(f"no number ends before byte {position}")


def delimited(field: int, content: bytes) -> bytes:
    """A field with its content."""
    return prefix(field, len(content)) + content


def prefix(field: int, length: int) -> bytes:
    """What stands before a content of ``length`` bytes."""
    return bytes(_varint(field << 3 | _LENGTH_DELIMITED)) + bytes(_varint(length))


def _varint(number: int) -> Iterator[int]:
    """Seven bits a byte, least first."""
    while number >= _MORE:
        yield number & (_MORE - 1) | _MORE
        number >>= 7
    yield number
