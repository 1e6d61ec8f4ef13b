"""Compiled search for scales and zero points; ``algorithms/scale_search.py`` says what it minimises.

A tile is one block in each of C columns, one SIMD lane a column: no loop over columns branches. A *grid* of a tile is
[4, C]: scale, its inverse, and the lowest and the highest level, which are codes less the zero point.
"""

import numpy as np
import numpy.typing as npt

from vqonnx.kernels.jit import compiled

F32 = npt.NDArray[np.float32]

SCALE, INVERSE, LOW, HIGH = 0, 1, 2, 3

_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_SMALLEST = np.float32(2.0**-126)


@compiled
def nearest_level(w: np.float32, inverse: np.float32, low: np.float32, high: np.float32) -> np.float32:
    """The nearest level of ``w``."""
    level: np.float32 = np.rint(max(low, min(high, w * inverse)))
    return level


@compiled
def correlate(w: F32, energy: F32, grid: F32, sums: F32) -> None:
    """With q the nearest level of w on each column's grid and r = w - s q: the sums of e r q, e q^2 and e r^2.

    The least squared error of these levels is at the scale s + sum(e r q) / sum(e q^2), which lowers it from sum(e r^2)
    by sum(e r q)^2 / sum(e q^2). Sums of w in place of r would cancel: at 8 bits the error is 1e-5 of sum(e w^2).

    Args:
        w: [B, C].
        energy: [B, C], weights of the squared errors.
        grid: [4, C].
        sums: [3, C], written.
    """
    sums[:] = _ZERO
    scale, inverse, low, high = grid[SCALE], grid[INVERSE], grid[LOW], grid[HIGH]
    whole = w.shape[0] - w.shape[0] % 4  # four rows at a time, so that grids and sums are loaded a fourth as often
    for i in range(0, whole, 4):
        w0, w1, w2, w3 = w[i], w[i + 1], w[i + 2], w[i + 3]
        e0, e1, e2, e3 = energy[i], energy[i + 1], energy[i + 2], energy[i + 3]
        for c in range(w.shape[1]):
            q0 = nearest_level(w0[c], inverse[c], low[c], high[c])
            q1 = nearest_level(w1[c], inverse[c], low[c], high[c])
            q2 = nearest_level(w2[c], inverse[c], low[c], high[c])
            q3 = nearest_level(w3[c], inverse[c], low[c], high[c])
            r0, r1, r2, r3 = w0[c] - q0 * scale[c], w1[c] - q1 * scale[c], w2[c] - q2 * scale[c], w3[c] - q3 * scale[c]
            p0, p1, p2, p3 = e0[c] * q0, e1[c] * q1, e2[c] * q2, e3[c] * q3
            sums[0, c] += (p0 * r0 + p1 * r1) + (p2 * r2 + p3 * r3)
            sums[1, c] += (p0 * q0 + p1 * q1) + (p2 * q2 + p3 * q3)
            sums[2, c] += (e0[c] * r0 * r0 + e1[c] * r1 * r1) + (e2[c] * r2 * r2 + e3[c] * r3 * r3)
    for i in range(whole, w.shape[0]):
        for c in range(w.shape[1]):
            q = nearest_level(w[i, c], inverse[c], low[c], high[c])
            r = w[i, c] - q * scale[c]
            sums[0, c] += energy[i, c] * q * r
            sums[1, c] += energy[i, c] * q * q
            sums[2, c] += energy[i, c] * r * r


@compiled
def set_grid(scales: F32, zeros: F32, top: np.float32, grid: F32) -> None:
    """The grid of scales, none of them 0, and zero points, [C] each."""
    for c in range(scales.size):
        grid[SCALE, c] = scales[c]
        grid[INVERSE, c] = _ONE / scales[c]
        grid[LOW, c] = -zeros[c]
        grid[HIGH, c] = top - zeros[c]


@compiled
def find_ends(w: F32, ends: F32) -> None:
    """Smallest and largest element of each column, or 0; [2, C]."""
    ends[:] = _ZERO
    for i in range(w.shape[0]):
        for c in range(w.shape[1]):
            ends[0, c] = min(ends[0, c], w[i, c])
            ends[1, c] = max(ends[1, c], w[i, c])


@compiled
def widest(start: F32, ends: F32, shift: np.float32, top: np.float32, grid: F32) -> None:
    """The smallest scales that clip nothing, with zero points ``shift`` codes off; ends without codes are given up."""
    for c in range(grid.shape[1]):
        zero = max(_ZERO, min(top, shift - start[LOW, c]))
        up, down = ends[1, c] / max(top - zero, _ONE), -ends[0, c] / max(zero, _ONE)
        scale = max(up if zero < top else _ZERO, down if zero > _ZERO else _ZERO, _SMALLEST)
        grid[SCALE, c] = scale
        grid[INVERSE, c] = _ONE / scale
        grid[LOW, c] = -zero
        grid[HIGH, c] = top - zero


@compiled
def shrink(grid: F32, ratio: np.float32, trial: F32) -> None:
    """``grid`` with its scales times ``ratio``."""
    inverse = _ONE / ratio
    for c in range(grid.shape[1]):
        trial[SCALE, c] = grid[SCALE, c] * ratio
        trial[INVERSE, c] = grid[INVERSE, c] * inverse
        trial[LOW, c] = grid[LOW, c]
        trial[HIGH, c] = grid[HIGH, c]


@compiled
def keep_better(trial: F32, sums: F32, best: F32, losses: F32) -> None:
    """Where the trial's levels leave less error once the scale is refitted, make that grid the best."""
    for c in range(losses.size):
        step = sums[0, c] / max(sums[1, c], _SMALLEST)
        loss, scale = sums[2, c] - sums[0, c] * step, trial[SCALE, c] + step
        better = (loss < losses[c]) & (sums[1, c] > _ZERO) & (abs(scale) >= _SMALLEST)
        losses[c] = loss if better else losses[c]
        best[SCALE, c] = scale if better else best[SCALE, c]
        best[LOW, c] = trial[LOW, c] if better else best[LOW, c]
        best[HIGH, c] = trial[HIGH, c] if better else best[HIGH, c]
    for c in range(losses.size):
        best[INVERSE, c] = _ONE / best[SCALE, c]


@compiled
def refit(sums: F32, symmetric: bool, best: F32) -> None:
    """Move the scales to where the squared error of the levels behind ``sums`` is least."""
    for c in range(best.shape[1]):
        scale = best[SCALE, c] + sums[0, c] / max(sums[1, c], _SMALLEST)
        sound = (sums[1, c] > _ZERO) & (abs(scale) >= _SMALLEST) & (symmetric | (scale > _ZERO))
        best[SCALE, c] = scale if sound else best[SCALE, c]
        best[INVERSE, c] = _ONE / best[SCALE, c]


@compiled
def weigh(w: F32, energy: F32, favour: float, weights: F32) -> None:
    """Write each element's weight: its row's energy, times ``1 + favour * |w| / rms`` of its block."""
    slopes = np.zeros(w.shape[1], np.float32)
    for i in range(w.shape[0]):
        for c in range(slopes.size):
            slopes[c] += w[i, c] * w[i, c]
    for c in range(slopes.size):
        rms = np.sqrt(slopes[c] / np.float32(w.shape[0]))
        slopes[c] = np.float32(favour) / rms if rms > _ZERO else _ZERO
    for i in range(w.shape[0]):
        for c in range(slopes.size):
            weights[i, c] = energy[i] * (_ONE + slopes[c] * abs(w[i, c]))


@compiled
def search_block(
    w: F32, weights: F32, form: tuple[np.float32, bool], effort: tuple[F32, F32, int, int], tile: tuple[F32, F32, F32]
) -> None:
    """The best grid of each column's block.

    Args:
        w: [B, C].
        weights: [B, C].
        form: Largest code, whether symmetric.
        effort: As for ``search``.
        tile: Grids [4, C]: the one to start from, and the best, written; errors [2, C] of these two, written.
    """
    top, symmetric = form
    ratios, around, steps, rounds = effort
    start, best, errors = tile
    width = w.shape[1]
    wide, trial = np.empty((4, width), np.float32), np.empty((4, width), np.float32)
    ends, sums, losses = np.empty((2, width), np.float32), np.empty((3, width), np.float32), np.empty(width, np.float32)
    find_ends(w, ends)
    losses[:] = np.float32(np.inf)
    best[:] = start
    correlate(w, weights, start, sums)
    errors[0] = sums[2]
    keep_better(start, sums, best, losses)
    for variant in range(2 if symmetric else 2 * steps + 1):
        if symmetric:
            shrink(start, np.float32(1 - 2 * variant), wide)  # either sign
        else:
            widest(start, ends, np.float32(variant - steps), top, wide)
        for ratio in ratios:
            shrink(wide, ratio, trial)
            correlate(w, weights, trial, sums)
            keep_better(trial, sums, best, losses)
    wide[:] = best
    for ratio in around:
        shrink(wide, ratio, trial)
        correlate(w, weights, trial, sums)
        keep_better(trial, sums, best, losses)
    for _ in range(rounds):
        correlate(w, weights, best, sums)
        refit(sums, symmetric, best)
    correlate(w, weights, best, sums)
    errors[1] = sums[2]


@compiled
def search(
    w: F32,
    energy: F32,
    form: tuple[int, int, bool],
    span: tuple[int, int],
    effort: tuple[F32, F32, int, int, float],
    grid: tuple[F32, F32],
) -> None:
    """Improve the grids of all blocks of the columns ``span``.

    Args:
        w: [K, N].
        energy: [K], weights of the squared errors.
        form: Block size, largest code, whether symmetric.
        span: First column and the one after the last.
        effort: Ratios to the widest scale that are tried; then ratios to the best of them; steps of the zero point to
            either side; rounds of refits; how much large elements are favoured.
        grid: Scales and zero points [J, N], round-to-nearest's on entry; changed only where the error falls.
    """
    block, top, symmetric = form[0], np.float32(form[1]), form[2]
    left, right = span
    ratios, around, steps, rounds, favour = effort
    scales, zeros = grid
    start, best = np.empty((4, right - left), np.float32), np.empty((4, right - left), np.float32)
    errors = np.empty((2, right - left), np.float32)
    local, weights = np.empty((block, right - left), np.float32), np.empty((block, right - left), np.float32)
    for j in range(scales.shape[0]):
        rows = min(block, w.shape[0] - j * block)
        local[:rows] = w[j * block : j * block + rows, left:right]
        weigh(local[:rows], energy[j * block : j * block + rows], favour, weights[:rows])
        set_grid(scales[j, left:right], zeros[j, left:right], top, start)
        search_block(
            local[:rows], weights[:rows], (top, symmetric), (ratios, around, steps, rounds), (start, best, errors)
        )
        for c in range(right - left):
            if errors[1, c] < errors[0, c]:
                scales[j, left + c], zeros[j, left + c] = best[SCALE, c], -best[LOW, c]
