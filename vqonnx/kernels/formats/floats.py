"""Rounding to float16, bfloat16 and float8."""

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from vqonnx.core.qtype import Kind, QType
from vqonnx.errors import OptionError
from vqonnx.kernels.parallel import in_parallel

F32 = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.floating]

_ALONE = 1 << 18  # elements; fewer are done before another thread has started


def round_to_float(x: FloatArray, qtype: QType, *, saturate: bool = False) -> F32:
    """The nearest number of a float type, halves to even, subnormals included (ONNX Cast-19).

    Args:
        x: float32, or a type that it holds exactly; any shape.
        qtype: float16, bfloat16, float8e4m3fn or float8e5m2.
        saturate: Whether what lies beyond the largest finite number, infinity included, becomes that number. It
            becomes infinity otherwise, or NaN in a type that has none.

    Returns:
        float32, the shape of ``x``; NaN stays NaN.

    Raises:
        OptionError: ``qtype`` is no float type.
    """
    from vqonnx.kernels.formats.float_loops import FloatGrid, round_floats

    if qtype.kind is not Kind.FLOAT:
        raise OptionError(f"{qtype.name} is no float type", option="qtype")
    info: Any = ml_dtypes.finfo(qtype.dtype)  # type: ignore[no-untyped-call]  # as ml_dtypes is written
    largest = float(info.max)
    overflow = largest if saturate else float(np.array(np.inf).astype(qtype.dtype))
    grid = FloatGrid(int(info.nmant), float(info.smallest_normal), largest, overflow)
    source = np.ascontiguousarray(x, np.float32).reshape(-1)
    out = np.empty_like(source)
    threads = 1 if source.size < _ALONE else None
    in_parallel(lambda a, b: round_floats(source[a:b], grid, out[a:b]), source.size, threads=threads)
    return out.reshape(np.shape(x))
