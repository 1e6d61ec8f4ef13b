"""Codes of a matrix whose rows are channels, a slab of rows at a time: arrays larger than memory may be maps."""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from vqonnx.core.granularity import PerAxis
from vqonnx.core.params import QuantParams
from vqonnx.core.spec import QuantSpec
from vqonnx.kernels.affine import affine_params, block_ranges, dequantize, quantize
from vqonnx.kernels.metrics import ErrorSums

Array = npt.NDArray[np.generic]
FloatArray = npt.NDArray[np.floating]

_SLAB_BYTES = 1 << 24


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


def row_numbers(codes: Array, params: QuantParams) -> npt.NDArray[np.float32]:
    """What codes [C, L] stand for, float32."""
    numbers = np.empty(codes.shape, np.float32)
    for where, slab in _slabs(codes):
        numbers[where] = dequantize(slab, _of_rows(params, where))
    return numbers


def row_errors(rows: FloatArray, params: QuantParams) -> ErrorSums:
    """What rounding costs ``rows``."""
    sums = ErrorSums()
    for where, slab in _slabs(rows):
        own = _of_rows(params, where)
        sums = sums.merge(ErrorSums.of(slab.astype(np.float32), dequantize(quantize(slab, own), own)))
    return sums


def _slabs(rows: npt.NDArray[np.generic]) -> Iterator[tuple[slice, npt.NDArray[np.generic]]]:
    step = max(1, _SLAB_BYTES // max(1, 4 * math.prod(rows.shape[1:])))
    for start in range(0, max(1, rows.shape[0]), step):
        where = slice(start, start + step)
        yield where, np.ascontiguousarray(rows[where])


def _of_rows(params: QuantParams, where: slice) -> QuantParams:
    if not params.scale.ndim:
        return params
    return QuantParams(params.scale[where], params.zero_point[where], params.spec)
