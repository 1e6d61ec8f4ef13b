"""Statistics on disk: finished ones, and those of a run that was interrupted.

One .npz file without pickles: ``header``, JSON in UTF-8, and the fields of each statistic as ``<number>.<field>``.
"""

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vqonnx.calibration.feeds import Array
from vqonnx.calibration.statistics import STATISTICS, Statistic
from vqonnx.errors import CacheError
from vqonnx.graph.pending import pending_files, synced_file

_VERSION = 1


@dataclass(frozen=True, slots=True)
class CacheKey:
    """What statistics depend on; digests in hex."""

    model: str
    wanted: str
    samples: str


@dataclass(frozen=True, slots=True)
class Partial:
    """The statistic of one tensor after its first ``done`` samples."""

    statistic: Statistic
    done: int = 0


_DIFFERENCES = {
    "model": "the model or its weights",
    "wanted": "what is observed (tensors, methods, options)",
    "samples": "the calibration samples",
}


def save_statistics(path: Path, key: CacheKey, partials: Mapping[str, Partial]) -> None:
    """Write atomically: a reader sees the old file or the new one.

    Raises:
        OutputError: The folder is missing, read-only or full.
    """
    header = {
        "version": _VERSION,
        "key": asdict(key),
        "tensors": [[name, part.statistic.name, part.done] for name, part in partials.items()],
    }
    arrays: dict[str, Array] = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}
    for number, part in enumerate(partials.values()):
        arrays |= {f"{number}.{field}": array for field, array in part.statistic.arrays().items()}
    with pending_files(path) as files:
        draft = files.new(path)
        with synced_file(draft) as file:
            np.savez(file, allow_pickle=False, **arrays)
        files.place(draft, path)


def load_statistics(path: Path, key: CacheKey) -> dict[str, Partial] | None:
    """The statistics at ``path``; None when there is no file.

    Raises:
        CacheError: The file is damaged, or belongs to another model, plan or data; it says which.
    """
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = dict(content)
        header = json.loads(arrays["header"].tobytes())
        _refuse_other(path, key, header["version"], header["key"])
        return {
            name: Partial(_statistic(arrays, number, kind), done)
            for number, (name, kind, done) in enumerate(header["tensors"])
        }
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise CacheError(
            f"calibration cache {str(path)!r} is damaged or no cache ({type(error).__name__}: {error}); delete it, or "
            "pass another path, to measure again",
            path=str(path),
        ) from error


def _statistic(arrays: Mapping[str, Array], number: int, kind: str) -> Statistic:
    prefix = f"{number}."
    fields = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    return STATISTICS[kind].from_arrays(fields)


def _refuse_other(path: Path, key: CacheKey, version: int, stored: Mapping[str, str]) -> None:
    if version != _VERSION:
        raise CacheError(
            f"calibration cache {str(path)!r} has format {version}, this version writes {_VERSION}; delete it, or pass "
            "another path, to measure again",
            path=str(path),
        )
    differing = [text for part, text in _DIFFERENCES.items() if stored[part] != asdict(key)[part]]
    if differing:
        raise CacheError(
            f"calibration cache {str(path)!r} was made for another run: {' and '.join(differing)} changed; delete it, "
            "or pass another path, to measure again",
            path=str(path),
        )
