"""Codes of a matrix whose rows are channels, a slab of rows at a time: arrays larger than memory may be maps."""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from vqonnx.core.granularity import PerAxis
from vqonnx.core.params import QuantParams
from vqonnx.core.spec import QuantSpec
from vqonnx.kernels.affine import affine_params, block_ranges, dequantize, quantize

Array = npt.NDArray[np.generic]
FloatArray = npt.NDArray[np.floating]
F32 = npt.NDArray[np.float32]

_SLAB_BYTES = 1 << 18
"""Of float32: what fits into the processor's cache is four times as fast as 16 MiB."""


def row_params(rows: FloatArray, spec: QuantSpec) -> QuantParams:
    """Scales and zero points over the whole range of ``rows`` [C, L].

    Args:
        rows: Channels first; of any floating-point type and strides.
        spec: Per axis 0 (parameters [C]) or per tensor ([]).

    Raises:
        QuantRangeError: A number is NaN or infinite.
    """
    ranges = [block_ranges(slab, spec) for _, slab in _slabs(rows)]
    low, high = zip(*ranges, strict=True)
    if isinstance(spec.granularity, PerAxis):
        return affine_params(np.concatenate(low), np.concatenate(high), spec)
    return affine_params(min(low), max(high), spec)


def row_codes(rows: FloatArray, params: QuantParams) -> Array:
    """Codes [C, L] of ``rows``, rounded to nearest."""
    codes = np.empty(rows.shape, params.spec.qtype.dtype)
    for where, slab in _slabs(rows):
        codes[where] = quantize(slab, _of_rows(params, where))
    return codes


def rounded_slabs(rows: FloatArray, params: QuantParams) -> Iterator[tuple[slice, F32]]:
    """What the codes of ``rows`` stand for, float32 [c, L], with the rows that they are; all together [C, L]."""
    for where, slab in _slabs(rows):
        own = _of_rows(params, where)
        yield where, dequantize(quantize(slab, own), own).astype(np.float32, copy=False)


def rounded(rows: FloatArray, params: QuantParams) -> F32:
    """The same at once, [C, L]."""
    numbers = np.empty(rows.shape, np.float32)
    for where, slab in rounded_slabs(rows, params):
        numbers[where] = slab
    return numbers


def rounding_error(rows: FloatArray, params: QuantParams) -> float:
    """Squared error of rounding, relative to the sum of squares; 0 for nothing but zeros."""
    noise = signal = 0.0
    for where, slab in rounded_slabs(rows, params):
        real = np.ascontiguousarray(rows[where], np.float64).reshape(-1)
        error = real - slab.reshape(-1)
        signal, noise = signal + _energy(real), noise + _energy(error)
    return noise / signal if signal else 0.0


def _energy(numbers: npt.NDArray[np.float64]) -> float:
    """Sum of squares; not by BLAS, whose threads cost more than so few numbers take."""
    return float(np.einsum("i,i->", numbers, numbers))


def _slabs(rows: FloatArray) -> Iterator[tuple[slice, FloatArray]]:
    step = max(1, _SLAB_BYTES // max(1, 4 * math.prod(rows.shape[1:])))
    for start in range(0, max(1, rows.shape[0]), step):
        where = slice(start, start + step)
        yield where, np.ascontiguousarray(rows[where])


def _of_rows(params: QuantParams, where: slice) -> QuantParams:
    if not params.scale.ndim:
        return params
    return QuantParams(params.scale[where], params.zero_point[where], params.spec)
