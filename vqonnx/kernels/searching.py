"""Compiled searches over candidate ranges; ``ranges.py`` says what they minimise and why."""

import numpy as np
import numpy.typing as npt

from vqonnx.kernels.jit import compiled

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@compiled
def moments_below(x: float, edges: F64, sums: F64, grid: tuple[float, float]) -> tuple[float, float, float]:
    """Integrals of 1, t and t^2 over the density below ``x``; arguments as in ``squared_errors``."""
    bins = edges.size - 1
    if x >= edges[bins]:
        return sums[0, bins], sums[1, bins], sums[2, bins]
    if x <= edges[0]:
        return 0.0, 0.0, 0.0
    k = max(0, min(bins - 1, int((x - grid[0]) / grid[1])))
    left, right = edges[k], edges[k + 1]
    density = (sums[0, k + 1] - sums[0, k]) / (right - left) if right > left else 0.0
    return (
        sums[0, k] + density * (x - left),
        sums[1, k] + density * (x * x - left * left) / 2,
        sums[2, k] + density * (x * x * x - left * left * left) / 3,
    )


@compiled
def squared_errors(ends: F64, edges: F64, sums: F64, grid: tuple[float, float], steps: int) -> F64:
    """Sum of squared errors, [c], of each candidate range.

    Args:
        ends: [2, c] lower and upper ends of the candidates.
        edges: [n + 1] ends of the bins; the outermost are the smallest and the largest element.
        sums: [3, n + 1] integrals of 1, t and t^2 over the density below each edge.
        grid: Lower end of the first bin on the grid, and the width of a bin.
        steps: Steps from the lower to the upper end.
    """
    bins = edges.size - 1
    errors = np.empty(ends.shape[1])
    for i in range(errors.size):
        lo, hi = ends[0, i], ends[1, i]
        step = (hi - lo) / steps
        a0, a1, a2 = moments_below(lo, edges, sums, grid)
        b0, b1, b2 = moments_below(hi, edges, sums, grid)
        c0, _, c2 = moments_below(max(lo, -step / 2), edges, sums, grid)
        d0, _, d2 = moments_below(min(hi, step / 2), edges, sums, grid)
        clipped_below = a2 - 2 * lo * a1 + lo * lo * a0
        above0, above1, above2 = sums[0, bins] - b0, sums[1, bins] - b1, sums[2, bins] - b2
        clipped_above = above2 - 2 * hi * above1 + hi * hi * above0
        rounded = step * step / 12 * max(0.0, (b0 - a0) - (d0 - c0))
        errors[i] = clipped_below + clipped_above + rounded + (d2 - c2)
    return errors


@compiled
def rounding_errors(rows: npt.NDArray[np.float32], scales: F64, zeros: F64, codes: tuple[float, float]) -> F64:
    """Sum of squared errors of each row, [r], rounded half to even and clipped to the codes.

    Args:
        rows: [r, n].
        scales: [r], powers of two, so that dividing is exact.
        zeros: [r] zero points.
        codes: Smallest and largest code.
    """
    errors = np.zeros(rows.shape[0])
    for r in range(errors.size):
        scale, least, most = scales[r], codes[0] - zeros[r], codes[1] - zeros[r]
        factor, total = 1 / scale, 0.0
        for i in range(rows.shape[1]):
            x = np.float64(rows[r, i])
            error = max(least, min(most, np.rint(x * factor))) * scale - x
            total += error * error
        errors[r] = total
    return errors


@compiled
def relative_entropies(firsts: I64, lasts: I64, counts: I64, prefix: F64, zero: int, levels: int) -> F64:
    """Relative entropy of each candidate range, the bins first..last.

    Infinite where it spans fewer bins than levels, or would clip elements into an empty bin.

    Args:
        firsts: [c] first bins of the candidates.
        lasts: [c] last bins.
        counts: [n] elements in each bin.
        prefix: [3, n + 1] running sums of counts, of non-empty bins, and of count * log(count).
        zero: The bin that begins at zero, a cell of its own; outside of 0..n - 1 if there is none.
        levels: Cells of a candidate.
    """
    result = np.full(firsts.size, np.inf)
    total = prefix[0, counts.size]
    for i in range(firsts.size):
        first, last = firsts[i], lasts[i]
        below, above = prefix[0, first], total - prefix[0, last + 1]
        at_first, at_last = float(counts[first]), float(counts[last])
        if last - first + 1 < levels or (below > 0 and at_first == 0) or (above > 0 and at_last == 0):
            continue
        value = prefix[2, last + 1] - prefix[2, first]
        if below > 0:
            value += (at_first + below) * np.log(at_first + below) - at_first * np.log(at_first)
        if above > 0:
            value += (at_last + above) * np.log(at_last + above) - at_last * np.log(at_last)
        width, start = last - first + 1, first
        for cell in range(levels):
            end = first + (cell + 1) * width // levels
            mass, filled = prefix[0, end] - prefix[0, start], prefix[1, end] - prefix[1, start]
            extra = (below if cell == 0 else 0.0) + (above if cell == levels - 1 else 0.0)
            if start <= zero < end and counts[zero] > 0:
                exact = float(counts[zero])
                value -= exact * np.log(exact)
                mass, filled = mass - exact, filled - 1
            if filled > 0:
                value -= (mass + extra) * np.log(mass / filled)
            start = end
        result[i] = value / total
    return result
