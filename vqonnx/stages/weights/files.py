"""Data files that arrays are appended to, and read from through one map."""

import contextlib
import math
import mmap
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vqonnx.graph.atomic import as_output_error
from vqonnx.stages.weights.records import Array, dtype_called

_PAGE = 4096  # what is appended together shares no page with the rest: no page is read before all of it was written
_ALIGNED = 64


@dataclass(frozen=True, slots=True)
class Place:
    """Where an array lies in its file.

    Attributes:
        offset: First byte.
        dtype: Name of its type.
        shape: Its shape.
    """

    offset: int
    dtype: str
    shape: tuple[int, ...]


def room_for(arrays: Sequence[Array]) -> int:
    """Bytes that ``arrays`` take in a file, at most."""
    return _rounded(sum(_rounded(array.nbytes, _ALIGNED) for array in arrays), _PAGE)


class DataFile:
    """A file whose size is fixed from the beginning, since its map is: most disks give room to what is written only.

    The map is never closed while arrays of it are in use (reading them would end the process): it goes with the last
    of them and the object itself.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        """Open a file for reading, or with a size make one to append to.

        Raises:
            OutputError: It cannot be made, opened or mapped.
        """
        self._path, self._end = path, 0
        with as_output_error(path), contextlib.ExitStack() as on_error:
            self._file = on_error.enter_context(path.open("x+b" if size else "rb"))
            if size:
                self._file.truncate(size)
            self._map = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            if size:
                on_error.pop_all()

    @property
    def room(self) -> int:
        """Bytes that can still be appended; none once the file was sealed."""
        return 0 if self._file.closed else len(self._map) - self._end

    def append(self, arrays: Sequence[Array]) -> list[Place]:
        """Write arrays one behind the other.

        Raises:
            OutputError: The disk is full.
        """
        places, offset = [], self._end
        with as_output_error(self._path):
            for array in arrays:
                self._file.seek(offset)
                self._file.write(_bytes_of(array))
                places.append(Place(offset, array.dtype.name, array.shape))
                offset += _rounded(array.nbytes, _ALIGNED)
            self._file.flush()
        self._end = _rounded(offset, _PAGE)
        return places

    def holds(self, place: Place) -> bool:
        """Whether the file is long enough for an array."""
        return place.offset + math.prod(place.shape) * dtype_called(place.dtype).itemsize <= len(self._map)

    def view(self, place: Place) -> Array:
        """The array at ``place``: a read-only map."""
        return np.ndarray(place.shape, dtype_called(place.dtype), self._map, place.offset)

    def seal(self) -> None:
        """Append no more; one file descriptor less."""
        self._file.close()


def checksum_of(arrays: Sequence[Array]) -> int:
    """CRC-32 of the arrays' bytes, one behind the other."""
    checksum = 0
    for array in arrays:
        checksum = zlib.crc32(_bytes_of(array), checksum)
    return checksum


def _bytes_of(array: Array) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _rounded(size: int, step: int) -> int:
    return -(-size // step) * step
