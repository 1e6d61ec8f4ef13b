"""How kernels are compiled. Only modules of compiled kernels import this; they are imported when first called."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numba

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """``numba.njit``: machine code is kept in ``__pycache__``, and the GIL is released while it runs.

    Not parallel: callers run samples side by side, one thread each, and numba's default threading layer allows
    parallel kernels from one thread only.
    """
    kernel: Callable[P, R] = numba.njit(cache=True, nogil=True)(function)
    return kernel
