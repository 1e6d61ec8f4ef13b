"""Tensors that wait on disk between two segments of a model, and how far a walk over the segments has come."""

import contextlib
import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from vqonnx.calibration.feeds import Array
from vqonnx.graph import atomic
from vqonnx.graph.pending import pending_files, synced_file

_INDEX = "index.json"
_VERSION = 1

Append = Callable[[int, Sequence[Array]], None]
"""Takes a sample's number and its tensors."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the tensor of one sample lies in its file, C-contiguous and in the byte order of this machine.

    Attributes:
        offset: First byte.
        dtype: numpy's name of its type.
        shape: Its shape.
    """

    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def end(self) -> int:
        """First byte behind it."""
        return self.offset + math.prod(self.shape) * np.dtype(self.dtype).itemsize


Places = Mapping[int, Place]


class _Column:
    """A new file for one tensor."""

    def __init__(self, path: Path) -> None:
        self.places: dict[int, Place] = {}
        self._path, self._end, self._lock = path, 0, threading.Lock()
        with atomic.as_output_error(path):
            path.write_bytes(b"")

    def append(self, sample: int, array: Array) -> None:
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        with self._lock:
            place = Place(self._end, array.dtype.name, array.shape)
            self._end = place.end
        with atomic.as_output_error(self._path), self._path.open("r+b") as file:
            file.seek(place.offset)
            file.write(data)
        self.places[sample] = place


class ActivationStore:
    """One file a tensor, with its samples one after the other; what is no longer needed is removed at once.

    With ``save_every`` the store can be opened again after its process ended, even killed: every so often (and when it
    is closed) all that a walk needs to go on is forced to the disk, and named by an index that is written last. Files
    that the index names stay until the next index is there.

    A context manager.

    Attributes:
        done: Segments that have run; more than 0 at first only in a store that was opened again.
    """

    def __init__(self, folder: Path, *, save_every: float | None = None, key: str = "") -> None:
        """Open a store.

        Args:
            folder: Belongs to the store alone; other files in it are removed.
            save_every: Seconds between two indices; None: the store ends with its process.
            key: What the tensors depend on; what was stored under another key is not used.

        Raises:
            OutputError: The folder cannot be written.
        """
        self._folder, self._key, self._save_every = folder, key, save_every
        self.done = 0
        self._tensors: dict[str, Places] = {}
        self._kept: dict[str, Places] = {}  # at the last commit
        self._indexed: frozenset[str] = frozenset()
        with atomic.as_output_error(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if save_every is not None:
                self._restore()
            self._sweep()
        self._saved, self._saved_at = self.done, time.monotonic()

    def __enter__(self) -> "ActivationStore":
        return self

    def __exit__(self, *error: object) -> None:
        if self._save_every is not None and self._saved != self.done:
            self._save()

    def places(self, name: str) -> Places:
        """Type and shape of a tensor in each sample; empty if it is not stored."""
        return self._tensors.get(name, {})

    def holds(self, names: Collection[str]) -> bool:
        """Whether all these tensors are stored."""
        return self._tensors.keys() >= set(names)

    def read(self, name: str, sample: int) -> Array:
        """The tensor in one sample; may be called by several threads."""
        place = self._tensors[name][sample]
        count = math.prod(place.shape)
        array: Array = np.fromfile(self._file(name), np.dtype(place.dtype), count, offset=place.offset)
        return array.reshape(place.shape)

    @contextlib.contextmanager
    def writing(self, names: Sequence[str]) -> Iterator[Append]:
        """Files for the tensors ``names``, to which the block appends samples in any order, also by several threads.

        When the block ends they are stored.

        Raises:
            OutputError: The folder cannot be written, or the disk is full.
        """
        columns = [_Column(self._file(name)) for name in names]

        def append(sample: int, arrays: Sequence[Array]) -> None:
            for column, array in zip(columns, arrays, strict=True):
                column.append(sample, array)

        yield append
        self._tensors.update((name, column.places) for name, column in zip(names, columns, strict=True))

    def commit(self, done: int, keep: Collection[str]) -> None:
        """Note that the first ``done`` segments have run; of the tensors only ``keep`` are still needed.

        Raises:
            OutputError: The disk is full.
        """
        self.done = done
        self._tensors = {name: places for name, places in self._tensors.items() if name in keep}
        self._kept = dict(self._tensors)
        if self._save_every is not None and time.monotonic() - self._saved_at >= self._save_every:
            self._save()
        with atomic.as_output_error(self._folder):
            self._sweep()

    def forget(self) -> None:
        """Remove all tensors and the index: no segment has run."""
        self._tensors, self._kept, self._indexed, self.done, self._saved = {}, {}, frozenset(), 0, 0
        with atomic.as_output_error(self._folder):
            (self._folder / _INDEX).unlink(missing_ok=True)
            self._sweep()

    def remove(self) -> None:
        """Remove everything, the folder too."""
        self.forget()
        with contextlib.suppress(OSError):  # a file of somebody else came there
            self._folder.rmdir()

    def _file(self, name: str) -> Path:
        return self._folder / f"{hashlib.blake2b(name.encode(), digest_size=12).hexdigest()}.bin"

    def _save(self) -> None:
        index = self._folder / _INDEX
        content = {
            "version": _VERSION,
            "key": self._key,
            "done": self.done,
            "tensors": {name: [(i, *astuple(p)) for i, p in places.items()] for name, places in self._kept.items()},
        }
        with pending_files(index) as files:
            for name in self._kept:
                with self._file(name).open("r+b") as file:
                    os.fsync(file.fileno())
            draft = files.new(index)
            with synced_file(draft) as file:
                file.write(json.dumps(content).encode())
            files.place(draft, index)
            atomic.sync_folder(self._folder)
        self._indexed = frozenset(self._kept)
        self._saved, self._saved_at = self.done, time.monotonic()

    def _restore(self) -> None:
        """Take up what the index names; nothing, if there is none or it is not of this walk."""
        index = self._folder / _INDEX
        if not index.is_file():
            return
        content = json.loads(index.read_bytes())
        if (content["version"], content["key"]) != (_VERSION, self._key):
            index.unlink()
            return
        self.done = content["done"]
        for name, rows in content["tensors"].items():
            self._tensors[name] = {i: Place(offset, dtype, tuple(shape)) for i, offset, dtype, shape in rows}
        self._kept, self._indexed = dict(self._tensors), frozenset(self._tensors)

    def _sweep(self) -> None:
        """Remove the files of tensors that neither the walk nor the index needs, and what a killed process left."""
        wanted = {self._file(name).name for name in {*self._tensors, *self._indexed}} | {_INDEX}
        for file in self._folder.iterdir():
            if file.name not in wanted:
                file.unlink()
