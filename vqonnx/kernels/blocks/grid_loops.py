"""Compiled loops over the blocks of a weight; ``block_grid.py`` says what they mean.

Columns lie side by side in memory and are treated alike, so the innermost loop runs over them: it becomes SIMD code,
and a column's result does not depend on its neighbours, on tiles or on threads.
"""

import numpy as np
import numpy.typing as npt

from vqonnx.kernels.jit import compiled

F32 = npt.NDArray[np.float32]

_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_SMALLEST = np.float32(2.0**-126)
BELOW_HALF = np.float32(0.49999997)
"""The largest float32 below 1/2: trunc(x + it) rounds halves up, for 0 <= x < 2^23."""


@compiled
def min_max(w: F32, block: int, span: tuple[int, int], form: tuple[int, bool], out: tuple[F32, F32]) -> None:
    """Write scale and zero point of every block of the columns ``span``.

    Args:
        w: [K, N].
        block: Rows in a block.
        span: First column and the one after the last.
        form: Largest code, whether symmetric.
        out: Scales and zero points, [J, N] each.
    """
    left, right = span
    top, symmetric = np.float32(form[0]), form[1]
    middle = np.float32((form[0] + 1) // 2)
    scales, zeros = out
    low, high = np.empty(right - left, np.float32), np.empty(right - left, np.float32)
    for j in range(scales.shape[0]):
        low[:] = _ZERO
        high[:] = _ZERO
        for i in range(j * block, min(j * block + block, w.shape[0])):
            for c in range(right - left):
                low[c] = min(low[c], w[i, left + c])
                high[c] = max(high[c], w[i, left + c])
        for c in range(right - left):
            if symmetric:
                scale, zero = (high[c] if high[c] > -low[c] else low[c]) / -middle, middle
            else:
                scale = (high[c] - low[c]) / top
                zero = min(-low[c] / max(scale, _SMALLEST), top)
                zero = np.float32(np.int32(zero + BELOW_HALF))
            tiny = np.float32(1.0) if low[c] == high[c] else (_SMALLEST if scale >= _ZERO else -_SMALLEST)
            scales[j, left + c] = scale if abs(scale) >= _SMALLEST else tiny
            zeros[j, left + c] = zero


@compiled
def nearest(w: F32, form: tuple[int, int], span: tuple[int, int], grid: tuple[F32, F32], out: F32) -> None:
    """Write what the nearest codes of the columns ``span`` stand for; ``form`` is block size, largest code."""
    block, top = form[0], np.float32(form[1])
    left, right = span
    scales, zeros = grid
    for i in range(w.shape[0]):
        j = i // block
        for c in range(left, right):
            level = max(_ZERO, min(top, w[i, c] * (_ONE / scales[j, c]) + zeros[j, c]))
            out[i, c] = (np.float32(np.int32(level + BELOW_HALF)) - zeros[j, c]) * scales[j, c]
