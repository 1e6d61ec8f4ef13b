"""Compiled search for scales and zero points; ``algorithms/scale_search.py`` says what it minimises."""

import numpy as np
import numpy.typing as npt

from vqonnx.kernels.grid_loops import BELOW_HALF
from vqonnx.kernels.jit import compiled

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_SMALLEST = np.float32(2.0**-126)


@compiled
def nearest_level(w: np.float32, inverse: np.float32, zero: np.float32, top: np.float32) -> np.float32:
    """The nearest code of ``w``, less the zero point; halves go up, as in round-to-nearest."""
    return np.float32(np.int32(max(_ZERO, min(top, w * inverse + zero)) + BELOW_HALF)) - zero


@compiled
def correlate(w: F32, energy: F32, trial: F32, top: np.float32, sums: F32) -> None:
    """With q the nearest level of w on each column's trial grid and r = w - s q: the sums of e r q, e q^2 and e r^2.

    The least squared error of these levels is at the scale s + sum(e r q) / sum(e q^2), which lowers it from sum(e r^2)
    by sum(e r q)^2 / sum(e q^2). Sums of w in place of r would cancel: at 8 bits the error is 1e-5 of sum(e w^2).

    Args:
        w: [B, C], one block in each of C columns.
        energy: [B, C], weights of the squared errors.
        trial: [3, C]: scale, its inverse, zero point.
        top: The largest code.
        sums: [3, C], written.
    """
    sums[:] = _ZERO
    half = w.shape[0] // 2  # two rows at a time, so that sums are loaded and stored half as often
    for i in range(half):
        for c in range(w.shape[1]):
            a = nearest_level(w[i, c], trial[1, c], trial[2, c], top)
            b = nearest_level(w[half + i, c], trial[1, c], trial[2, c], top)
            a_miss, b_miss = w[i, c] - a * trial[0, c], w[half + i, c] - b * trial[0, c]
            a_energy, b_energy = energy[i, c], energy[half + i, c]
            sums[0, c] += a_energy * a * a_miss + b_energy * b * b_miss
            sums[1, c] += a_energy * a * a + b_energy * b * b
            sums[2, c] += a_energy * a_miss * a_miss + b_energy * b_miss * b_miss
    for i in range(2 * half, w.shape[0]):
        for c in range(w.shape[1]):
            level = nearest_level(w[i, c], trial[1, c], trial[2, c], top)
            miss = w[i, c] - level * trial[0, c]
            sums[0, c] += energy[i, c] * level * miss
            sums[1, c] += energy[i, c] * level * level
            sums[2, c] += energy[i, c] * miss * miss


@compiled
def block_error(w: F32, energy: F32, trial: F32, top: np.float32, errors: F64) -> None:
    """The weighted squared error [C] of nearest codes on each column's trial grid, in double precision."""
    errors[:] = 0.0
    for i in range(w.shape[0]):
        for c in range(w.shape[1]):
            level = nearest_level(w[i, c], trial[1, c], trial[2, c], top)
            miss = np.float64(w[i, c]) - np.float64(level) * np.float64(trial[0, c])
            errors[c] += energy[i, c] * miss * miss


@compiled
def set_trial(trial: F32, c: int, scale: np.float32, zero: np.float32) -> None:
    """Column ``c`` of the trial grids; a scale of almost 0 becomes 1, whose levels are then all 0 or ends."""
    trial[0, c] = scale if abs(scale) >= _SMALLEST else _ONE
    trial[1, c] = _ONE / trial[0, c]
    trial[2, c] = zero


@compiled
def widest_scale(low: np.float32, high: np.float32, zero: np.float32, top: np.float32) -> np.float32:
    """The smallest scale whose codes reach both ends from ``zero``; an end without codes on its side is given up."""
    up = high / (top - zero) if zero < top else _ZERO
    down = -low / zero if zero > _ZERO else _ZERO
    return max(up, down)


@compiled
def propose(
    start: F32, ends: F32, form: tuple[np.float32, bool], candidate: tuple[int, np.float32], trial: F32
) -> None:
    """Fill ``trial``. Symmetric: variants 0 and 1 are the signs; else the zero point is ``variant`` steps off."""
    top, symmetric = form
    variant, ratio = candidate
    for c in range(trial.shape[1]):
        if symmetric:
            set_trial(trial, c, start[0, c] * (ratio if variant == 0 else -ratio), start[2, c])
        else:
            zero = max(_ZERO, min(top, start[2, c] + np.float32(variant)))
            set_trial(trial, c, ratio * widest_scale(ends[0, c], ends[1, c], zero, top), zero)


@compiled
def keep_better(trial: F32, sums: F32, best: F32, losses: F32) -> None:
    """Where the trial's codes leave less error after a refit of the scale, make that grid the best."""
    for c in range(losses.size):
        if sums[1, c] > _ZERO:
            step = sums[0, c] / sums[1, c]
            loss = sums[2, c] - sums[0, c] * step
            if loss < losses[c]:
                losses[c] = loss
                set_trial(best, c, trial[0, c] + step, trial[2, c])


@compiled
def refit(w: F32, energy: F32, best: F32, top: np.float32, symmetric: bool, sums: F32) -> None:
    """One round: nearest codes, then the scale of least squares. Neither can raise the error."""
    correlate(w, energy, best, top, sums)
    for c in range(best.shape[1]):
        scale = best[0, c] + (sums[0, c] / sums[1, c] if sums[1, c] > _ZERO else _ZERO)
        if symmetric or scale > _ZERO:
            set_trial(best, c, scale, best[2, c])


@compiled
def weigh(w: F32, energy: F32, favour: float, weights: F32) -> None:
    """Write each element's weight: its row's energy, times ``1 + favour * |w| / rms`` of its block."""
    for c in range(w.shape[1]):
        squares = _ZERO
        for i in range(w.shape[0]):
            squares += w[i, c] * w[i, c]
        slope = np.float32(favour) / np.sqrt(squares / np.float32(w.shape[0])) if squares > _ZERO else _ZERO
        for i in range(w.shape[0]):
            weights[i, c] = energy[i] * (_ONE + slope * abs(w[i, c]))


@compiled
def search(
    w: F32,
    energy: F32,
    form: tuple[int, int, bool],
    span: tuple[int, int],
    effort: tuple[F32, int, int, float],
    grid: tuple[F32, F32],
) -> None:
    """Improve the grids of all blocks of the columns ``span``.

    Args:
        w: [K, N].
        energy: [K], weights of the squared errors.
        form: Block size, largest code, whether symmetric.
        span: First column and the one after the last.
        effort: Ratios to the widest scale that are tried; steps of the zero point to either side; rounds of refits.
        grid: Scales and zero points [J, N], round-to-nearest's on entry; changed only where the error falls.
    """
    block, top, symmetric = form[0], np.float32(form[1]), form[2]
    left, width = span[0], span[1] - span[0]
    ratios, steps, rounds, favour = effort
    scales, zeros = grid
    variants = (0, 2) if symmetric else (-steps, steps + 1)
    start, trial, best = (
        np.empty((3, width), np.float32),
        np.empty((3, width), np.float32),
        np.empty((3, width), np.float32),
    )
    ends, sums = np.empty((2, width), np.float32), np.empty((3, width), np.float32)
    losses = np.empty(width, np.float32)
    before, after = np.empty(width), np.empty(width)
    local, weights_of = np.empty((block, width), np.float32), np.empty((block, width), np.float32)
    for j in range(scales.shape[0]):
        first, last = j * block, min(j * block + block, w.shape[0])
        here = local[: last - first]
        here[:] = w[first:last, left : left + width]
        weigh(here, energy[first:last], favour, weights_of[: last - first])
        weights = weights_of[: last - first]
        for c in range(width):
            set_trial(start, c, scales[j, left + c], zeros[j, left + c])
            ends[0, c], ends[1, c] = min(_ZERO, here[:, c].min()), max(_ZERO, here[:, c].max())
        losses[:] = np.float32(np.inf)
        best[:] = start
        correlate(here, weights, start, top, sums)
        keep_better(start, sums, best, losses)
        for variant in range(variants[0], variants[1]):
            for ratio in ratios:
                propose(start, ends, (top, symmetric), (variant, ratio), trial)
                correlate(here, weights, trial, top, sums)
                keep_better(trial, sums, best, losses)
        for _ in range(rounds):
            refit(here, weights, best, top, symmetric, sums)
        block_error(here, weights, start, top, before)
        block_error(here, weights, best, top, after)
        for c in range(width):
            if after[c] < before[c]:
                scales[j, left + c], zeros[j, left + c] = best[0, c], best[2, c]
