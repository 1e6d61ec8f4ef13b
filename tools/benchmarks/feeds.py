"""Calibration samples as files, so that a tool's memory is its own and not that of the samples."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Feed = dict[str, NDArray[Any]]


def spool(feeds: Iterable[Feed], folder: Path) -> int:
    """Write one .npz file a feed; return how many."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for feed in feeds:
        arrays: dict[str, Any] = feed
        np.savez(folder / f"{count:05d}.npz", **arrays)
        count += 1
    return count


def stream(folder: Path, limit: int | None = None) -> Iterator[Feed]:
    """The feeds of a folder, one at a time."""
    for path in sorted(folder.glob("*.npz"))[:limit]:
        with np.load(path) as arrays:
            yield dict(arrays)
