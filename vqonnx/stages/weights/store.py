"""Solved weights on disk until the model is written: out of memory, and found again by a run that was interrupted.

A folder holds an index, one line of JSON a weight behind a first line that names the job, and data files of 256 MiB (or
of one larger weight). Weights share a file, since each map of one takes a file descriptor. A weight's line is written
after its arrays, and carries a checksum of itself and one of them: what a killed process or a power cut left half done
is solved again.
"""

import contextlib
import json
import re
import threading
import zlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from vqonnx.core.solved_weight import SolvedWeight
from vqonnx.graph.atomic import as_output_error
from vqonnx.graph.lock import hold
from vqonnx.kernels.parallel import in_parallel
from vqonnx.stages.weights.files import DataFile, Place, checksum_of, room_for
from vqonnx.stages.weights.records import Array, arrays_of, joined, scalars_of

_INDEX, _LOCK, _DATA = "weights.index", "weights.lock", re.compile(r"weights-(\d+)\.bin")
_VERSION = 1
_FILE_BYTES = 1 << 28


class SolvedWeights(Mapping[str, SolvedWeight]):
    """Solved weights by key, in the order they were put."""

    @abstractmethod
    def put(self, solved: SolvedWeight) -> SolvedWeight:
        """Keep a weight, in place of one of the same key, and return it as it is kept."""


class MemoryStore(SolvedWeights):
    """Solved weights in memory."""

    def __init__(self) -> None:
        self._weights: dict[str, SolvedWeight] = {}

    def put(self, solved: SolvedWeight) -> SolvedWeight:
        """Keep a weight."""
        self._weights[solved.key] = solved
        return solved

    def __getitem__(self, key: str) -> SolvedWeight:
        return self._weights[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


@dataclass(frozen=True, slots=True)
class _Record:
    """A line of the index.

    Attributes:
        file: Number of the data file.
        checksum: Of the arrays' bytes.
        places: Where the arrays lie, by name.
        scalars: What the weight is besides them.
    """

    file: int
    checksum: int
    places: dict[str, Place]
    scalars: dict[str, Any]

    @classmethod
    def of(cls, line: Mapping[str, Any]) -> "_Record":
        places = {name: Place(offset, dtype, tuple(shape)) for name, (offset, dtype, shape) in line["places"].items()}
        return cls(line["file"], line["checksum"], places, line["scalars"])

    def line(self) -> dict[str, Any]:
        """What ``of`` reads."""
        places = {name: (place.offset, place.dtype, place.shape) for name, place in self.places.items()}
        return {"file": self.file, "checksum": self.checksum, "places": places, "scalars": self.scalars}

    @property
    def key(self) -> str:
        """Key of the weight."""
        return str(self.scalars["key"])


class WeightStore(SolvedWeights):
    """Solved weights in a folder of one job, as read-only maps.

    A context manager: at the end the folder is closed, and stays for a later run unless ``remove`` was called. Several
    threads may use it.

    Attributes:
        folder: The folder; files that are not the store's are left alone.
        note: What was found there that is of no use to this job; empty otherwise.
    """

    def __init__(self, folder: Path, job: str) -> None:
        """Open the folder, which is made if it is missing, and take up the weights that the same job left there.

        Args:
            folder: Where.
            job: Digest of all that results depend on. Weights of another job are removed.

        Raises:
            OutputError: The folder cannot be written, or another run works there.
        """
        self.folder, self.note = folder, ""
        self._records: dict[str, _Record] = {}
        self._files: dict[int, DataFile] = {}
        self._mutex = threading.Lock()
        with as_output_error(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as on_error:
            self._held = on_error.enter_context(hold(folder / _LOCK))
            self._index = self._restore(job)
            on_error.pop_all()

    def put(self, solved: SolvedWeight) -> SolvedWeight:
        """Write a weight and return it as a map of what was written.

        Raises:
            OutputError: The disk is full.
        """
        named = arrays_of(solved)
        arrays = list(named.values())
        with self._mutex:
            number = self._number_for(room_for(arrays))
            places = self._files[number].append(arrays)
            record = _Record(number, checksum_of(arrays), dict(zip(named, places, strict=True)), scalars_of(solved))
            with as_output_error(self.folder / _INDEX):
                self._index.write(_line(record.line()))
                self._index.flush()
            self._records[solved.key] = record
        return self[solved.key]

    def __getitem__(self, key: str) -> SolvedWeight:
        record = self._records[key]
        return joined(record.scalars, self._views(record))

    def __iter__(self) -> Iterator[str]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __enter__(self) -> "WeightStore":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all files; arrays of the store that are in use stay valid."""
        self._close_files()
        self._held.close()

    def remove(self) -> bool:
        """Close and remove everything; whether all is gone.

        Windows keeps files that are mapped, so there the store's arrays must no longer be in use.
        """
        self._close_files()
        gone = True
        try:
            self._clear()
            self._held.close()
            (self.folder / _LOCK).unlink()
        except OSError:
            gone = False
        self._held.close()
        with contextlib.suppress(OSError):  # files of somebody else are there
            self.folder.rmdir()
        return gone

    def _close_files(self) -> None:
        self._index.close()
        for file in self._files.values():
            file.seal()
        self._records, self._files = {}, {}

    def _number_for(self, size: int) -> int:
        """A file that ``size`` bytes can be appended to."""
        last = max(self._files, default=-1)
        if last >= 0:
            if self._files[last].room >= size:
                return last
            self._files[last].seal()
        self._files[last + 1] = DataFile(self._data(last + 1), max(size, _FILE_BYTES))
        return last + 1

    def _data(self, number: int) -> Path:
        return self.folder / f"weights-{number}.bin"

    def _views(self, record: _Record) -> dict[str, Array]:
        return {name: self._files[record.file].view(place) for name, place in record.places.items()}

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.name == _INDEX or _DATA.fullmatch(path.name):
                path.unlink()

    def _restore(self, job: str) -> BinaryIO:
        """Take up what the folder holds; the index, to be written on."""
        path, header = self.folder / _INDEX, {"version": _VERSION, "job": job}
        with as_output_error(path):
            content = path.read_bytes() if path.exists() else b""
            first, *rows = _lines(content) or [None]
            if first == header:
                self._take_up(rows)
            else:
                self.note = f"{len(rows)} weights of another job were removed" if rows else ""
                self._clear()
            index = path.open("ab")
            if first == header:
                index.truncate(content.rfind(b"\n") + 1)  # without a line that was cut off
            else:
                index.write(_line(header))
                index.flush()
        return index

    def _take_up(self, rows: Sequence[Mapping[str, Any] | None]) -> None:
        records = {record.key: record for record in map(_Record.of, filter(None, rows))}  # of two, the later
        for number in {record.file for record in records.values()}:
            path = self._data(number)
            if path.is_file() and path.stat().st_size:
                self._files[number] = DataFile(path)
        for path in self.folder.iterdir():
            found = _DATA.fullmatch(path.name)
            if found and int(found[1]) not in self._files:
                path.unlink()
        whole = self._whole(list(records.values()))
        self._records = {key: record for (key, record), kept in zip(records.items(), whole, strict=True) if kept}
        lost = rows.count(None) + whole.count(False)
        self.note = f"{lost} weights of an interrupted run were damaged and are solved again" if lost else ""

    def _whole(self, records: Sequence[_Record]) -> list[bool]:
        """Whether each record's arrays are there as they were written."""
        whole = [False] * len(records)

        def check(start: int, stop: int) -> None:
            for number in range(start, stop):
                record = records[number]
                file = self._files.get(record.file)
                if file is not None and all(file.holds(place) for place in record.places.values()):
                    whole[number] = checksum_of(list(self._views(record).values())) == record.checksum

        in_parallel(check, len(records))
        return whole


def _line(content: Mapping[str, object]) -> bytes:
    text = json.dumps(content).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _lines(content: bytes) -> list[Mapping[str, Any] | None]:
    """What each whole line says; None for one that is damaged."""
    pairs = [line.partition(b" ") for line in content.split(b"\n")[:-1]]
    return [json.loads(text) if checksum == b"%08x" % zlib.crc32(text) else None for checksum, _, text in pairs]
