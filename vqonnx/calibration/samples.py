"""Calibration samples that can be read again and again, whatever they came from."""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, overload

import numpy as np

from vqonnx.calibration.feeds import Feed
from vqonnx.errors import OptionError


class Feeds(Sequence[Feed]):
    """A view of some samples; each feed is read when it is asked for and held by nobody else."""

    def __init__(self, read: Callable[[int], Feed], indices: Sequence[int]) -> None:
        self._read, self.indices = read, tuple(indices)

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, index: int) -> Feed: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Feed | Self:
        if isinstance(index, slice):
            return type(self)(self._read, self.indices[index])
        return self._read(self.indices[index])

    def __iter__(self) -> Iterator[Feed]:
        return map(self._read, self.indices)


class Samples:
    """All samples of a reader, and which of them calibrate and which verify.

    A context manager; leaving it removes the copies that were made of a one-shot reader.

    Attributes:
        all: Every sample.
        calibration: Those that statistics are made of.
        held_back: Those that verification runs: every ``hold_back_every``-th, which is not used for calibration;
            but all samples, calibration's too, when there are fewer than ``hold_back_every`` or it is 0.
    """

    def __init__(
        self, read: Callable[[int], Feed], count: int, *, hold_back_every: int = 8, spool: Path | None = None
    ) -> None:
        if hold_back_every < 0 or hold_back_every == 1:
            raise OptionError(
                f"hold_back_every must be 0 (hold back nothing) or at least 2, got {hold_back_every}",
                option="hold_back_every",
            )
        splits = 0 < hold_back_every <= count
        held = [i for i in range(count) if splits and i % hold_back_every == hold_back_every - 1]
        self.all = Feeds(read, range(count))
        self.calibration = Feeds(read, sorted(set(range(count)) - set(held)))
        self.held_back = Feeds(read, held or range(count))
        self._spool = spool

    def __len__(self) -> int:
        return len(self.all)

    def __iter__(self) -> Iterator[Feed]:
        return iter(self.all)

    def digest(self) -> str:
        """Digest of the content of every feed."""
        return feeds_digest(self.all)

    def close(self) -> None:
        """Remove the copies; the samples of a one-shot reader cannot be read afterwards."""
        if self._spool is not None:
            shutil.rmtree(self._spool, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def feeds_digest(feeds: Sequence[Feed]) -> str:
    """BLAKE2b digest, in hex, of names, dtypes, shapes and bytes, in order."""
    digest = hashlib.blake2b(digest_size=20)
    for feed in feeds:
        for name, array in sorted(feed.items()):
            digest.update(repr((name, array.dtype.str, array.shape)).encode())
            if array.dtype.kind == "O":
                digest.update(repr(array.tolist()).encode())
            else:
                digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
