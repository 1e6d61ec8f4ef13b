"""Rounding of blocks under a shared exponent along any axis of a tensor."""

import math

import numpy as np
import numpy.typing as npt

from vqonnx.errors import OptionError
from vqonnx.kernels.formats.block_rule import Rule
from vqonnx.kernels.parallel import in_parallel

F32 = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.floating]

_ALONE = 1 << 18  # elements; fewer are done before another thread has started
_LANES = 16  # fewer columns than this leave SIMD lanes empty: such tensors are turned


def round_blocks(x: FloatArray, axis: int, form: tuple[int, int], rule: Rule) -> F32:
    """Round each element to its block's grid.

    A tensor of one element is returned as it is, and ``axis`` means nothing to a tensor of rank 1: so do AMD's
    operators.

    Args:
        x: Any shape.
        axis: Along which blocks lie; a last block that is short is as if filled with zeros.
        form: Elements of a block, and of a sub-block, which divides it.
        rule: How to round.

    Returns:
        A new float32 array of the shape of ``x``.

    Raises:
        OptionError: ``x`` has no such axis.
    """
    values: F32 = np.ascontiguousarray(x, np.float32).reshape(np.shape(x))
    if values.ndim > 1 and not -values.ndim <= axis < values.ndim:
        raise OptionError(f"a tensor of shape {x.shape} has no axis {axis} to lay blocks along", option="axis")
    if values.size <= 1:
        return values.copy()
    axis = axis % values.ndim if values.ndim > 1 else 0
    n, inner = values.shape[axis], math.prod(values.shape[axis + 1 :])
    if inner >= _LANES:
        return _round_columns(values.reshape(-1, n, inner), form, rule).reshape(values.shape)
    turned = np.ascontiguousarray(np.moveaxis(values, axis, -1))
    rounded = _round_rows(turned.reshape(-1, n), form, rule).reshape(turned.shape)
    return np.ascontiguousarray(np.moveaxis(rounded, -1, axis))


def _round_rows(x: F32, form: tuple[int, int], rule: Rule) -> F32:
    from vqonnx.kernels.formats.shared_exponent_loops import round_rows

    block, sub = form
    rows = x.reshape(1, -1) if x.shape[1] % block == 0 else x  # no block is short: one row will do
    out = np.empty_like(rows)
    whole = (block, sub, math.gcd(sub, 8))
    blocks = rows.shape[0] * -(-rows.shape[1] // block)
    in_parallel(lambda a, b: round_rows(rows, whole, rule, (a, b), out), blocks, threads=_threads(x))
    return out


def _round_columns(x: F32, form: tuple[int, int], rule: Rule) -> F32:
    from vqonnx.kernels.formats.shared_exponent_loops import column_tasks, round_columns

    out = np.empty_like(x)
    tasks = column_tasks(x.shape, form[0])
    in_parallel(lambda a, b: round_columns(x, form, rule, (a, b), out), tasks, threads=_threads(x))
    return out


def _threads(x: F32) -> int | None:
    return 1 if x.size < _ALONE else None
