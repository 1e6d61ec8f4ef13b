"""Work on all cores: compiled kernels release the GIL, so plain threads run them side by side.

Not numba's own ``parallel=True``: its default threading layer ends the process when two threads enter it at once.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

_RANGES_PER_THREAD = 4
"""More ranges than threads, so that a core that others use too does not hold up the rest."""


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_parallel(work: Callable[[int, int], None], count: int, *, threads: int | None = None) -> None:
    """Call ``work(start, stop)`` for ranges that together cover 0 .. count once, in any order, on several threads.

    Args:
        work: Must give the same result however the ranges are cut: each index on its own.
        count: Number of indices.
        threads: Threads to use; as many as there are processors if None.

    Raises:
        Exception: The first that ``work`` raised; ranges not yet begun are left out.
    """
    workers = min(count, threads or processors())
    if workers <= 1:
        if count:
            work(0, count)
        return
    ranges = min(count, workers * _RANGES_PER_THREAD)
    edges = [count * i // ranges for i in range(ranges + 1)]
    with ThreadPoolExecutor(workers) as pool:
        tasks = [pool.submit(work, start, stop) for start, stop in pairwise(edges)]
        try:
            for task in tasks:
                task.result()
        finally:
            pool.shutdown(cancel_futures=True)
