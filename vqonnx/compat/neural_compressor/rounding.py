"""Round to nearest as Neural Compressor does, from a weight [K, N] to packed blocks or to a weight of few values.

The arithmetic is that of ``quant_tensor``, to the last bit, on some columns at a time. Corrected for packed blocks:

* their zero points are codes, so zero becomes a part of every group's range; the peer clips the zero points of groups
  that do not reach it, and loses these weights;
* a scale too small for the weight's type becomes the smallest normal number, not 0.
"""

from collections.abc import Callable
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from vqonnx.compat.neural_compressor.groups import F64, code_range, group_scale, pad_tensor, qdq_tensor
from vqonnx.core.blocks import PACKED_BITS, U8, FloatArray, QuantizedBlocks, block_count, packed_bytes
from vqonnx.errors import OptionError, QuantRangeError
from vqonnx.kernels.blocks.packing import pack
from vqonnx.kernels.parallel import in_parallel

_LARGEST_BITS = 8
_ELEMENTS = 1 << 18
"""Weights that are rounded at a time: what is computed of them stays in the processor's cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """How a weight is rounded.

    Attributes:
        bits: Bits of a code, 1 to 8.
        group_size: Neighbours along K that share a scale; -1 for all of them.
        symmetric: Whether the zero point is the middle code; the scale is then 2 amax / (2^bits - 1).
        ratio: Factor on the ends of every range, above 0 and at most 1; what lies outside is clipped.

    Raises:
        OptionError: A value is out of range.
    """

    bits: int = 4
    group_size: int = 32
    symmetric: bool = False
    ratio: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= _LARGEST_BITS:
            raise OptionError(f"bits must lie in 1..{_LARGEST_BITS}, got {self.bits}", option="num_bits")
        if self.group_size != -1 and self.group_size < 1:
            raise OptionError(
                f"group_size must be at least 1, or -1 for all, got {self.group_size}", option="group_size"
            )
        if not 0 < self.ratio <= 1:
            raise OptionError(f"a ratio is a share and must lie in (0, 1], got {self.ratio}", option="ratios")

    @property
    def scheme(self) -> str:
        """Neural Compressor's word for it."""
        return "sym" if self.symmetric else "asym"

    def size_for(self, in_features: int) -> int:
        """The group size in elements for a weight with ``in_features`` rows."""
        return in_features if self.group_size == -1 else self.group_size


def pack_groups(weight: FloatArray, rounding: Rounding) -> QuantizedBlocks:
    """Round a weight to codes.

    Args:
        weight: [K, N], float32, float16 or bfloat16; maps of files are read a few columns at a time.
        rounding: How; 2, 4 or 8 bits.

    Raises:
        OptionError: Codes of so many bits are not packed.
        QuantRangeError: The weight holds NaN or infinite values.
    """
    if rounding.bits not in PACKED_BITS:
        raise OptionError(f"only codes of {PACKED_BITS} bits are packed, not of {rounding.bits}", option="num_bits")
    (k, n), size, bits = weight.shape, rounding.size_for(weight.shape[0]), rounding.bits
    count = block_count(k, size)
    codes = np.empty((n, count, packed_bytes(size, bits)), np.uint8)
    scales = np.empty((n, count), weight.dtype)
    zero_points = None if rounding.symmetric else np.empty((n, packed_bytes(count, bits)), np.uint8)

    def work(left: int, right: int) -> None:
        found, steps, zeros = _rounded(_groups(weight[:, left:right], size), rounding, weight.dtype)
        codes[left:right] = pack(found, bits)
        scales[left:right] = steps
        if zero_points is not None:
            zero_points[left:right] = pack(zeros, bits)

    _by_columns(work, k, n)
    return QuantizedBlocks(
        codes=codes,
        scales=scales,
        zero_points=zero_points,
        bits=bits,
        block_size=size,
        in_features=k,
        out_features=n,
    )


def round_groups(weight: FloatArray, rounding: Rounding) -> FloatArray:
    """A weight [K, N] of the same type, each number the nearest that a code of its group stands for.

    Zero points are whole numbers without limits here, so that no group is clipped.

    Raises:
        QuantRangeError: The weight holds NaN or infinite values.
    """
    (k, n), size = weight.shape, rounding.size_for(weight.shape[0])
    rounded = np.empty((k, n), weight.dtype)

    def work(left: int, right: int) -> None:
        groups = _groups(weight[:, left:right], size)
        reals = qdq_tensor(groups, rounding.bits, size, rounding.scheme, "int", rounding.ratio)
        rounded[:, left:right] = reals.reshape(right - left, -1)[:, :k].T

    _by_columns(work, k, n)
    return rounded


def _rounded(groups: FloatArray, rounding: Rounding, dtype: np.dtype[np.generic]) -> tuple[U8, F64, U8]:
    """Codes [n, J, size], scales [n, J] and zero points [n, J] of groups [n, J, size]."""
    smallest, largest = code_range(rounding.bits, signed=False)
    ratio = np.float32(rounding.ratio)
    low, high = np.minimum(groups.min(axis=2), 0) * ratio, np.maximum(groups.max(axis=2), 0) * ratio
    scale = group_scale(low, high, largest - smallest, symmetric=rounding.symmetric)
    np.maximum(scale, _least(dtype), out=scale)
    if rounding.symmetric:
        zero_point = np.full(scale.shape, float(1 << (rounding.bits - 1)))
    else:
        zero_point = np.rint(-low.astype(np.float64) / scale)
    codes = groups / scale[..., np.newaxis]
    codes += zero_point[..., np.newaxis]
    np.clip(np.rint(codes, out=codes), smallest, largest, out=codes)
    return codes.astype(np.uint8), scale, zero_point.astype(np.uint8)


def _least(dtype: np.dtype[np.generic]) -> float:
    """The smallest normal number of a float type."""
    return float(ml_dtypes.finfo(dtype).tiny)  # type: ignore[no-untyped-call]  # its stubs leave the type out


def _groups(columns: FloatArray, size: int) -> FloatArray:
    """The columns [K, n] as groups [n, J, size] in single precision, the last ones filled up with zeros."""
    single = columns.astype(np.float32)
    if not np.isfinite(single).all():
        raise QuantRangeError("the weight holds NaN or infinite values, for which no scale exists")
    count = block_count(single.shape[0], size)
    return np.ascontiguousarray(pad_tensor(single, size, count).T).reshape(-1, count, size)


def _by_columns(work: Callable[[int, int], None], k: int, n: int) -> None:
    """Call ``work(left, right)`` for all columns of a weight [K, N], a cache full at a time, on several threads."""
    width = max(1, _ELEMENTS // max(k, 1))

    def some(start: int, stop: int) -> None:
        for left in range(start * width, min(stop * width, n), width):
            work(left, min(left + width, n))

    in_parallel(some, -(-n // width))
