"""The affine mapping ``real = (code - zero_point) * scale``: parameters, codes and back.

The one implementation of scale and zero point; every granularity goes through it. Arithmetic is float64,
so that float16 and extreme float32 ranges neither overflow nor collapse.
"""

import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt

from vqonnx.core.granularity import Array, Granularity
from vqonnx.core.params import QuantizedTensor, QuantParams
from vqonnx.core.qtype import Kind
from vqonnx.core.spec import QuantSpec, ScaleGrid
from vqonnx.errors import OptionError, QuantRangeError
from vqonnx.kernels.formats.floats import round_to_float
from vqonnx.kernels.scale_grid import LARGEST_POWER, LARGEST_SCALE, SMALLEST_SCALE, on_grid

F64 = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.floating]

_TIE_DIGITS = 4
"""Half way but for the rounding of the scale is half way: [-1, 1] has 0 in the middle of any type, as exactly."""
_SLAB = 1 << 18
"""Elements that are rounded at a time."""
_EXACT_BITS = 16  # up to these, sums of codes are exact in float32


def affine_params(
    low: npt.ArrayLike, high: npt.ArrayLike, spec: QuantSpec, dtype: npt.DTypeLike = np.float32
) -> QuantParams:
    """Scale and zero point that carry the real interval [low, high] onto the codes of ``spec``.

    ``real = (code - zero_point) * scale`` (Jacob et al. 2018, arXiv:1712.05877, section 2.1). The interval is
    first widened to hold 0, so that 0.0 is exact; an interval of nothing but 0 gets the scale 1.

    Args:
        low: Lower ends, any shape S, in the tensor's own unit.
        high: Upper ends, shape S.
        spec: Type and symmetry to fill; a symmetric signed type gives up its lowest code.
        dtype: Type of the scale: float32, or float16 in float16 models.

    Returns:
        Scale and zero point of shape S.

    Raises:
        QuantRangeError: An end is not finite, or low > high.
    """
    lo, hi = _widened_to_zero(np.asarray(low, np.float64), np.asarray(high, np.float64))
    if spec.symmetric:
        hi = np.maximum(-lo, hi)
        lo = -hi
    scale = _representable((hi - lo) / (spec.qmax - spec.qmin), spec.grid, np.dtype(dtype))
    if spec.symmetric:
        zero = np.full(scale.shape, 0 if spec.qtype.signed else (spec.qmin + spec.qmax + 1) // 2)
    else:
        exact = np.round(spec.qmin - lo / scale.astype(np.float64), _TIE_DIGITS)
        zero = np.clip(np.rint(exact), spec.qmin, spec.qmax)
    return QuantParams(np.asarray(scale), np.asarray(zero.astype(spec.qtype.dtype)), spec)


def _widened_to_zero(low: F64, high: F64) -> tuple[F64, F64]:
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise QuantRangeError(f"a range must be finite, got [{low.min()}, {high.max()}]")
    if (low > high).any():
        raise QuantRangeError(f"a range must not end before it begins, got low {low} > high {high}")
    return np.minimum(low, 0.0), np.maximum(high, 0.0)


def _representable(step: F64, grid: ScaleGrid, dtype: np.dtype[np.generic]) -> FloatArray:
    """The scale of the grid and dtype for ``step``, not below it but for M * 2^-N; 1 where the step is 0."""
    largest = LARGEST_POWER if grid is ScaleGrid.POWER_OF_TWO else LARGEST_SCALE
    bounded = on_grid(np.clip(step, SMALLEST_SCALE[dtype], largest[dtype]), grid)
    scale = bounded.astype(dtype)
    if dtype == np.float16:  # 11 bits are so few that rounding down would clip the ends of the range
        scale = np.where(scale.astype(np.float64) < bounded, np.nextafter(scale, dtype.type(np.inf)), scale)
    rounded: FloatArray = np.where(step == 0, dtype.type(1), scale)
    return rounded


def block_ranges(values: Array, spec: QuantSpec) -> tuple[F64, F64]:
    """Smallest and largest value of each block of elements that share a scale.

    Returns:
        Two arrays with the shape of the scale: [] per tensor, [C] per axis, one entry a block per block. An
        empty block has the range [0, 0].

    Raises:
        QuantRangeError: A value is NaN or infinite.
    """
    shape = spec.granularity.scale_shape(values.shape)
    if values.size == 0:
        return np.zeros(shape), np.zeros(shape)
    blocks, axes = _blocked(values, spec.granularity, "edge")
    low = blocks.min(axis=axes).astype(np.float64)
    high = blocks.max(axis=axes).astype(np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise QuantRangeError("the tensor holds NaN or infinite values, for which no scale exists")
    return low.reshape(shape), high.reshape(shape)


def rows(values: Array, granularity: Granularity) -> Array:
    """The elements that share a scale side by side: [scales, elements]; a short last block is filled with zeros."""
    blocks, inner = _blocked(values, granularity, "constant")
    count = math.prod(granularity.scale_shape(values.shape))
    return np.moveaxis(blocks, inner, range(-len(inner), 0)).reshape(count, -1)


def _blocked(
    values: Array, granularity: Granularity, padding: Literal["edge", "constant"]
) -> tuple[Array, tuple[int, ...]]:
    """As [n0/b0, b0, n1/b1, b1, …], and the axes within a block; a short last block repeats its end or gets zeros."""
    blocks = granularity.block_shape(values.shape)
    missing = [(0, -n % max(b, 1)) for n, b in zip(values.shape, blocks, strict=True)]
    if any(after for _, after in missing):
        values = np.pad(values, missing, mode=padding)
    split = [part for n, b in zip(values.shape, blocks, strict=True) for part in (n // max(b, 1), b)]
    return values.reshape(split), tuple(range(1, 2 * len(blocks), 2))


def quantize(values: Array, params: QuantParams) -> Array:
    """Codes of ``values``: round half to even, then saturate (ONNX QuantizeLinear-21).

    Integers are rounded before the zero point is added; floats have none, and keep their fractions.

    Returns:
        An array of the shape of ``values`` and of the spec's ``qtype.dtype``.

    Raises:
        OptionError: The type is a block format, whose scales are in its blocks.
    """
    spec = params.spec
    if spec.qtype.kind not in (Kind.INTEGER, Kind.FLOAT):
        raise OptionError(
            f"{spec.qtype.name} takes no scale and zero point; round to it block by block", option="qtype"
        )
    scale = spec.granularity.expand(params.scale, values.shape).astype(np.float32)
    zero_point = spec.granularity.expand(params.zero_point, values.shape)
    if values.size <= _SLAB:
        return _codes(values, scale, zero_point, spec)
    codes = np.empty(values.shape, spec.qtype.dtype)
    for piece in _slabs(values.shape):
        codes[piece] = _codes(values[piece], _part(scale, piece), _part(zero_point, piece), spec)
    return codes


def _codes(values: Array, scale: Array, zero_point: Array, spec: QuantSpec) -> Array:
    with np.errstate(over="ignore"):  # what overflows saturates below
        scaled: FloatArray = np.divide(values.astype(np.float32, copy=False), scale)
    if spec.qtype.kind is Kind.FLOAT:
        return round_to_float(scaled, spec.qtype, saturate=True).astype(spec.qtype.dtype)
    exact = np.float32 if spec.qtype.bits <= _EXACT_BITS else np.float64
    codes: Array = np.clip(np.rint(scaled) + zero_point.astype(exact), *spec.saturation).astype(spec.qtype.dtype)
    return codes


def _slabs(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Pieces along the first long axis that fit into the cache: a large tensor needs no room but for its codes."""
    axis = next(axis for axis, size in enumerate(shape) if size > 1)
    step = max(1, _SLAB * shape[axis] // math.prod(shape))
    for start in range(0, shape[axis], step):
        yield (*(slice(None),) * axis, slice(start, start + step))


def _part(array: Array, piece: tuple[slice, ...]) -> Array:
    """What stands beside that piece of the tensor that the array is broadcast to."""
    return array[tuple(s if size > 1 else slice(None) for s, size in zip(piece, array.shape, strict=False))]


def dequantize(codes: Array, params: QuantParams) -> FloatArray:
    """``(code - zero_point) * scale`` in the scale's dtype (ONNX DequantizeLinear-21)."""
    granularity = params.spec.granularity
    scale = granularity.expand(params.scale, codes.shape)
    zero = granularity.expand(params.zero_point, codes.shape)
    reals: FloatArray = (codes.astype(np.float64) - zero.astype(np.float64)) * scale.astype(np.float64)
    return np.asarray(reals, dtype=params.scale.dtype)  # of no axes, arithmetic gives no array


def round_to_steps(values: Array, scale: float, zero_point: float, bits: int) -> FloatArray:
    """What becomes of float32 numbers that are quantized to signed codes of ``bits`` bits, and dequantized at once.

    ``(clip(round(x / scale) + zero_point) - zero_point) * scale`` in float32, halves to even. Where the scale is a
    power of two it gives the bits of ``dequantize(quantize(values))``; NaN stays NaN.
    """
    step, zero = np.float32(scale), np.float32(zero_point)
    half = 1 << (bits - 1)
    steps = np.empty(values.shape, np.float32)
    with np.errstate(over="ignore"):  # what overflows saturates
        np.divide(values, step, out=steps)
    np.rint(steps, out=steps)
    steps += zero
    np.clip(steps, -half, half - 1, out=steps)
    steps -= zero
    steps *= step
    return steps


def round_to_nearest(values: Array, spec: QuantSpec, dtype: npt.DTypeLike = np.float32) -> QuantizedTensor:
    """Quantize a constant over its whole range, block by block.

    Raises:
        QuantRangeError: A value is NaN or infinite.
    """
    low, high = block_ranges(values, spec)
    params = affine_params(low, high, spec, dtype)
    return QuantizedTensor(quantize(values, params), params)
