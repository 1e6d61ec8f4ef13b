"""Inside kernels: numbers as bit patterns and back, at no cost. Only modules of compiled kernels import this."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.core import types
from numba.extending import intrinsic


def _reinterpreted(source: Any, target: Any) -> Callable[..., Any]:
    """How numba compiles the reading of a ``source`` as a ``target`` of the same size."""

    def typer(typing: Any, value: Any) -> Any:
        del typing
        if value != source:
            return None

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

        return target(source), generate

    return typer


pattern_of_float: Callable[[np.float32], np.uint32] = intrinsic(_reinterpreted(types.float32, types.uint32))
float_of_pattern: Callable[[np.uint32], np.float32] = intrinsic(_reinterpreted(types.uint32, types.float32))
pattern_of_double: Callable[[float], np.uint64] = intrinsic(_reinterpreted(types.float64, types.uint64))
double_of_pattern: Callable[[np.uint64], float] = intrinsic(_reinterpreted(types.uint64, types.float64))
