"""Scales and zero points of ranges and arrays, for given codes."""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from vqonnx.compat.quant_utils.type_tables import QTYPE_OF, get_qmin_qmax_for_qType
from vqonnx.core.granularity import PerBlock
from vqonnx.core.qtype import QTYPES
from vqonnx.core.spec import QuantSpec
from vqonnx.errors import OptionError, QuantRangeError
from vqonnx.kernels.affine import affine_params, block_ranges

Array = npt.NDArray[Any]


def compute_scale_zp(
    rmin: npt.ArrayLike,
    rmax: npt.ArrayLike,
    qmin: npt.ArrayLike,
    qmax: npt.ArrayLike,
    symmetric: bool = False,
    min_real_range: float | None = None,
) -> list[Array]:
    """Zero point and scale that carry the interval [rmin, rmax], widened to hold 0, onto the codes [qmin, qmax].

    Args:
        rmin: Lower end.
        rmax: Upper end.
        qmin: Smallest code, <= 0; its type is that of the zero point.
        qmax: Largest code, >= 0.
        symmetric: Widen the interval to [-a, a]; the zero point is then the middle code.
        min_real_range: Least width of the interval.

    Returns:
        ``[zero_point, scale]``, each of shape []; ``[0, 1]`` where the scale would be below the smallest normal number.

    Raises:
        OptionError: 0 is no code.
        QuantRangeError: An end is not finite.
    """
    lowest, highest = int(np.asarray(qmin)), int(np.asarray(qmax))
    if not lowest <= 0 <= highest:
        raise OptionError(f"codes must hold 0, got [{lowest}, {highest}]", option="qmin")
    kind, codes = _float_type(rmin, rmax), np.asarray(qmin).dtype
    low, high = min(float(np.asarray(rmin)), 0.0), max(float(np.asarray(rmax)), 0.0)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise QuantRangeError(f"a range must be finite, got [{low}, {high}]")
    high = max(high, low + (min_real_range or 0.0))
    if symmetric:
        high = max(-low, high)
        low = -high
    scale = (high - low) / (highest - lowest)
    if scale < np.finfo(kind).tiny:
        return [np.array(0, codes), np.array(1, kind)]
    zero = np.rint((lowest + highest) / 2) if symmetric else np.clip(np.rint(lowest - low / scale), lowest, highest)
    return [np.array(zero).astype(codes), np.array(scale, kind)]


def _float_type(*ends: npt.ArrayLike) -> np.dtype[Any]:
    found = np.result_type(*(np.asarray(end).dtype for end in ends))
    return found if found.kind == "f" else np.dtype(np.float64)


def snap_zero_point_to_uint8(
    rmin: npt.ArrayLike, rmax: npt.ArrayLike, qmin: int = 0, qmax: int = 255, min_real_range: float | None = None
) -> tuple[Array, Array]:
    """Zero point and scale with the zero point ``qmin``, or in the middle where the range has negative numbers.

    The scale covers both sides; see ``compute_scale_zp`` for the arguments.
    """
    lowest, highest = int(qmin), int(qmax)
    low, high = min(float(np.squeeze(rmin)), 0.0), max(float(np.squeeze(rmax)), 0.0)
    least = min_real_range or 0.0
    high = max(high, low + least)
    zero = lowest if low >= 0 else (lowest + highest + 1) // 2
    steps = [high / (highest - zero), least / (highest - lowest)]
    if zero > lowest:
        steps.append(-low / (zero - lowest))
    widest = max(steps)
    scale = max(widest, float(np.finfo(np.float32).tiny)) if widest else 1 / (highest - lowest)
    return np.array(zero, np.uint8), np.array(scale, np.float32)


def compute_scale_zp_float8(element_type: int, std: npt.ArrayLike) -> list[Array]:
    """Zero point 0 and the scale that makes a tensor's standard deviation that of all finite float8 numbers.

    Raises:
        OptionError: The type is not FLOAT8E4M3FN.
    """
    if element_type != TensorProto.FLOAT8E4M3FN:
        raise OptionError(f"only FLOAT8E4M3FN has a scale by its distribution, not {element_type}", option="qType")
    deviation = np.asarray(std)
    return [np.array(0, QTYPES["float8e4m3fn"].dtype), np.array(deviation / _float8_deviation(), deviation.dtype)]


@cache
def _float8_deviation() -> float:
    numbers = np.arange(256, dtype=np.uint8).view(QTYPES["float8e4m3fn"].dtype).astype(np.float32)
    return float(np.std(numbers[np.isfinite(numbers)]))


def compute_scale_zp_blocked(
    weight: Array, quant_type: int, axis: int, block_size: int, symmetric: bool
) -> tuple[Array, Array]:
    """Zero points and scales of a matrix, one for ``block_size`` neighbours along ``axis``.

    Returns:
        Two arrays of the weight's shape, with ceil(n / block_size) at ``axis`` (ONNX QuantizeLinear-21).

    Raises:
        NotImplementedError: The weight is no matrix.
    """
    if weight.ndim != 2:
        raise NotImplementedError(
            f"blocks are for matrices; this weight has shape {list(weight.shape)}. Leave its node out, or take "
            "per_channel."
        )
    spec = QuantSpec(qtype=QTYPE_OF[quant_type], symmetric=symmetric, granularity=PerBlock(axis, block_size))
    params = affine_params(*block_ranges(weight, spec), spec, weight.dtype)
    return params.zero_point, params.scale


def compute_data_quant_params(
    data: Array,
    quant_type: int,
    symmetric: bool,
    reduce_range: bool = False,
    min_real_range: float | None = None,
    rmin_override: float | None = None,
    rmax_override: float | None = None,
) -> tuple[Array, Array]:
    """Zero point and scale of an array: of its smallest and largest element, unless others are given.

    Returns:
        Zero point and scale, each of shape []; ``(0, 1)`` for an empty array.

    Raises:
        TypeError: ``data`` is no array.
        QuantRangeError: It holds NaN or infinity.
    """
    if not isinstance(data, np.ndarray):
        raise TypeError(f"data must be an array, got {type(data).__name__}")
    if quant_type == TensorProto.FLOAT8E4M3FN:
        if reduce_range:
            raise OptionError("float8 has no reduced range", option="reduce_range")
        zero, scale = compute_scale_zp_float8(quant_type, np.std(data))
        return zero, scale
    qmin, qmax = get_qmin_qmax_for_qType(quant_type, reduce_range, symmetric)
    if not data.size:
        return np.array(0, qmin.dtype), np.array(1, data.dtype)
    low = data.min() if rmin_override is None else np.array(rmin_override, data.dtype)
    high = data.max() if rmax_override is None else np.array(rmax_override, data.dtype)
    zero, scale = compute_scale_zp(low, high, qmin, qmax, symmetric, min_real_range)
    return zero, scale
