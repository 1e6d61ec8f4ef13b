"""Compiled half-quadratic rounds; ``algorithms/hqq.py`` says what they minimise."""

import math

import numpy as np
import numpy.typing as npt

from vqonnx.kernels.blocks.grid_loops import BELOW_HALF
from vqonnx.kernels.blocks.scale_loops import HIGH, INVERSE, LOW, SCALE, nearest_level, set_grid
from vqonnx.kernels.jit import compiled

F32 = npt.NDArray[np.float32]

_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_SMALLEST = np.float32(2.0**-126)
_TINY = np.float32(1e-9)  # below a fourth root: any error this small is shrunken to 0


@compiled
def robust_error(w: F32, grid: F32, errors: F32) -> None:
    """Sum over the block of |w - nearest|^(3/4) on each column's grid, [4, C] as in ``scale_loops.py``."""
    errors[:] = _ZERO
    for i in range(w.shape[0]):
        for c in range(w.shape[1]):
            level = nearest_level(w[i, c], grid[INVERSE, c], grid[LOW, c], grid[HIGH, c])
            size = abs(w[i, c] - level * grid[SCALE, c])
            errors[c] += math.sqrt(size) * math.sqrt(math.sqrt(size))


@compiled
def shrink(miss: np.float32, threshold: np.float32) -> np.float32:
    """HQQ's generalized soft threshold, p = 3/4: sign(r) max(|r| - |r|^(p-1) / beta, 0); ``threshold`` is 1 / beta."""
    size = abs(miss)
    root = np.float32(math.sqrt(math.sqrt(size)))
    left = max(np.float32(size - threshold / max(root, _TINY)), _ZERO)
    return left if miss > _ZERO else -left


@compiled
def half_quadratic_step(w: F32, state: F32, top: np.float32, threshold: np.float32, refit: F32) -> None:
    """Shrink the errors of nearest codes, move each zero point to match what is left, and refit a scale to that.

    Args:
        w: [B, C].
        state: [3, C]: scale, its inverse, real zero point, which is moved.
        top: The largest code.
        threshold: 1 / beta.
        refit: [4, C], written: the grid with the zero point rounded, the scale refitted by least squares.
    """
    sums = np.zeros((4, w.shape[1]), np.float32)
    for i in range(w.shape[0]):
        for c in range(w.shape[1]):
            level = max(_ZERO, min(top, w[i, c] * state[1, c] + state[2, c]))
            level = np.float32(np.int32(level + BELOW_HALF))
            miss = w[i, c] - (level - state[2, c]) * state[0, c]
            kept = w[i, c] - shrink(miss, threshold)
            sums[0, c] += level - kept * state[1, c]
            sums[1, c] += level * kept
            sums[2, c] += kept
            sums[3, c] += level * level
    rows = np.float32(w.shape[0])
    for c in range(w.shape[1]):
        levels = sums[0, c] + sums[2, c] * state[1, c]  # the sum of the codes
        state[2, c] = sums[0, c] / rows
        zero = max(_ZERO, min(top, np.float32(np.rint(state[2, c]))))
        squares = sums[3, c] - zero * (levels + levels - rows * zero)
        product = sums[1, c] - zero * sums[2, c]
        scale = product / max(squares, _SMALLEST)
        refit[SCALE, c] = scale if (squares > _ZERO) & (scale >= _SMALLEST) else state[0, c]
        refit[INVERSE, c] = _ONE / refit[SCALE, c]
        refit[LOW, c] = -zero
        refit[HIGH, c] = top - zero


@compiled
def solve(w: F32, form: tuple[int, int], span: tuple[int, int], thresholds: F32, grid: tuple[F32, F32]) -> None:
    """Improve the grids of all blocks of the columns ``span``.

    Args:
        w: [K, N].
        form: Block size, largest code.
        span: First column and the one after the last.
        thresholds: 1 / beta of each round.
        grid: Scales and zero points [J, N], round-to-nearest's on entry; changed only where the objective falls.
    """
    block, top = form[0], np.float32(form[1])
    left, width = span[0], span[1] - span[0]
    scales, zeros = grid
    state, refit = np.empty((3, width), np.float32), np.empty((4, width), np.float32)
    best, errors = np.empty(width, np.float32), np.empty(width, np.float32)
    local = np.empty((block, width), np.float32)
    for j in range(scales.shape[0]):
        first, last = j * block, min(j * block + block, w.shape[0])
        here = local[: last - first]
        here[:] = w[first:last, left : left + width]
        set_grid(scales[j, left : left + width], zeros[j, left : left + width], top, refit)
        state[0], state[1], state[2] = refit[SCALE], refit[INVERSE], -refit[LOW]
        robust_error(here, refit, best)
        for threshold in thresholds:
            half_quadratic_step(here, state, top, threshold, refit)
            robust_error(here, refit, errors)
            for c in range(width):
                if errors[c] < best[c]:
                    best[c] = errors[c]
                    scales[j, left + c], zeros[j, left + c] = refit[SCALE, c], -refit[LOW, c]
