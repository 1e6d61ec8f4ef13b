"""Compiled errors of clipped ranges; ``algorithms/clip_search.py`` says what is chosen from them."""

import numpy as np
import numpy.typing as npt

from vqonnx.kernels.blocks.scale_loops import SCALE, correlate, set_grid, shrink, weigh
from vqonnx.kernels.jit import compiled

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

_SMALLEST = np.float32(2.0**-126)


@compiled
def clip(
    w: F32, energy: F32, form: tuple[int, int], span: tuple[int, int], ratios: F32, out: tuple[F32, F32, F64]
) -> None:
    """Multiply each scale of the columns ``span`` by the ratio of its block's least error.

    Args:
        w: [K, N].
        energy: [K], weights of the squared errors.
        form: Block size, largest code.
        span: First column and the one after the last.
        ratios: [R], what scales are multiplied by; of equal errors the first wins.
        out: Scales, round-to-nearest's on entry, and zero points, [J, N] each; errors [R, N], written: each ratio's,
            summed over the blocks of a column.
    """
    block, top = form[0], np.float32(form[1])
    left, width = span[0], span[1] - span[0]
    scales, zeros, totals = out
    local, weights = np.empty((block, width), np.float32), np.empty((block, width), np.float32)
    start, trial, sums = (
        np.empty((4, width), np.float32),
        np.empty((4, width), np.float32),
        np.empty((3, width), np.float32),
    )
    best, chosen = np.empty(width, np.float32), np.empty(width, np.float32)
    totals[:, left : left + width] = 0.0
    for j in range(scales.shape[0]):
        rows = min(block, w.shape[0] - j * block)
        local[:rows] = w[j * block : j * block + rows, left : left + width]
        weigh(local[:rows], energy[j * block : j * block + rows], 0.0, weights[:rows])
        set_grid(scales[j, left : left + width], zeros[j, left : left + width], top, start)
        best[:] = np.float32(np.inf)
        for r in range(ratios.size):
            shrink(start, ratios[r], trial)
            correlate(local[:rows], weights[:rows], trial, sums)
            for c in range(width):
                totals[r, left + c] += sums[2, c]
                better = (sums[2, c] < best[c]) & (abs(trial[SCALE, c]) >= _SMALLEST)
                best[c] = sums[2, c] if better else best[c]
                chosen[c] = trial[SCALE, c] if better else chosen[c]
        scales[j, left : left + width] = chosen
