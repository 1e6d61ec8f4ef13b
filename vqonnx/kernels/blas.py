"""Matrix products whose bits do not depend on the number of threads.

OpenBLAS cuts a product differently for one, two or more threads, and the pieces round differently (float32 products
differ in the last bit between one thread and two). So the algorithms let BLAS use one thread, and spread fixed
tiles of columns over the cores themselves.
"""

import ctypes
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vqonnx.kernels.parallel import in_parallel

TILE = 128
"""Columns in a tile: enough for BLAS, and 128 float32 rows of them stay in the second cache."""

_PREFIXES = ("scipy_openblas", "openblas")
_SUFFIXES = ("64_", "", "_64_")

_lock = threading.Lock()
_depth = [0, 0]  # nested users, and the number of threads before the first of them


@contextmanager
def one_blas_thread() -> Iterator[bool]:
    """Within it, numpy's OpenBLAS works with one thread, in the whole process.

    May be nested, and entered by several threads. Yields whether numpy's BLAS is an OpenBLAS that can be told so;
    another (Accelerate, MKL) keeps its own number of threads, and then results are the same on one machine only.
    """
    control = _openblas()
    if control is None:
        yield False
        return
    get_threads, set_threads = control
    with _lock:
        if _depth[0] == 0:
            _depth[1] = get_threads()
            set_threads(1)
        _depth[0] += 1
    try:
        yield True
    finally:
        with _lock:
            _depth[0] -= 1
            if _depth[0] == 0:
                set_threads(_depth[1])


@functools.cache
def _openblas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """Getter and setter of the number of threads of the OpenBLAS that numpy came with, if it did."""
    package = Path(np.__file__).parent
    folders = (package.parent / "numpy.libs", package / ".dylibs", package / ".libs")
    for path in sorted(path for folder in folders if folder.is_dir() for path in folder.glob("*openblas*")):
        library = ctypes.CDLL(str(path))
        for name in (f"{prefix}_{{}}_num_threads{suffix}" for prefix in _PREFIXES for suffix in _SUFFIXES):
            if hasattr(library, name.format("set")):
                get, put = getattr(library, name.format("get")), getattr(library, name.format("set"))
                get.restype, put.argtypes, put.restype = ctypes.c_int, [ctypes.c_int], None
                return get, put
    return None


def over_columns(
    work: Callable[[int, int], None], columns: int, *, tile: int = TILE, threads: int | None = None
) -> None:
    """Call ``work(left, right)`` for each tile [left, right) of ``columns`` columns, on all cores.

    The tiles are the same for any number of threads, and each is one thread's work; so where BLAS uses one thread, the
    results are the same too.

    Args:
        work: Must release the GIL to gain anything; an exception of it is raised here.
        columns: Number of columns.
        tile: Columns in a tile.
        threads: Threads to use; as many as there are processors if None.
    """

    def some(first: int, last: int) -> None:
        for left in range(first * tile, min(last * tile, columns), tile):
            work(left, min(left + tile, columns))

    in_parallel(some, -(-columns // tile), threads=threads)
