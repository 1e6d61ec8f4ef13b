"""How kernels are compiled. Only modules of compiled kernels import this; they are imported when first called."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import numba
import numpy as np
import numpy.typing as npt
from numba.core import types
from numba.extending import intrinsic
from numba.np.numpy_support import carray

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """``numba.njit``: machine code is kept in ``__pycache__``, and the GIL is released while it runs.

    Not parallel: callers run samples side by side, one thread each, and numba's default threading layer allows
    parallel kernels from one thread only.
    """
    kernel: Callable[P, R] = numba.njit(cache=True, nogil=True)(function)
    return kernel


def _pointer_of(typing: Any, address: Any) -> Any:
    """How numba compiles ``_pointer``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.voidptr(address), generate


_array_at: Any = carray  # typed for ctypes' pointers only
_pointer: Any = intrinsic(_pointer_of)


@compiled
def floats_at(address: np.uint64, size: np.uint64) -> npt.NDArray[np.float32]:
    """Inside kernels: the array at an address, which the caller keeps alive.

    Handing over a table of addresses takes a hundredth of the time of handing over the arrays.
    """
    x: npt.NDArray[np.float32] = _array_at(_pointer(address), size, np.float32)
    return x
