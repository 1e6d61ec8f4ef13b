"""Compiled errors of clipped ranges; ``algorithms/clip_search.py`` says what is chosen from them."""

import numpy as np
import numpy.typing as npt

from vqonnx.kernels.jit import compiled
from vqonnx.kernels.scale_loops import block_error, set_trial, weigh

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]


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
    trial, errors, best = np.empty((3, width), np.float32), np.empty(width), np.empty(width)
    chosen = np.empty(width, np.float32)
    totals[:, left : left + width] = 0.0
    for j in range(scales.shape[0]):
        first, last = j * block, min(j * block + block, w.shape[0])
        here = local[: last - first]
        here[:] = w[first:last, left : left + width]
        weigh(here, energy[first:last], 0.0, weights[: last - first])
        best[:] = np.inf
        for r in range(ratios.size):
            for c in range(width):
                set_trial(trial, c, ratios[r] * scales[j, left + c], zeros[j, left + c])
            block_error(here, weights[: last - first], trial, top, errors)
            for c in range(width):
                totals[r, left + c] += errors[c]
                if errors[c] < best[c]:
                    best[c] = errors[c]
                    chosen[c] = trial[0, c]
        scales[j, left : left + width] = chosen
