"""Compiled inner loop of GPTQ; ``algorithms/gptq.py`` says what it does."""

import numpy as np
import numpy.typing as npt

from vqonnx.kernels.blocks.grid_loops import BELOW_HALF
from vqonnx.kernels.jit import compiled

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)


@compiled
def feed_back(
    w: F32,
    factor: F32,
    rows: tuple[int, int, int],
    grid: tuple[F32, F32, I64, int],
    codes: U8,
    errors: F32,
) -> None:
    """Round rows of ``w`` one after the other, and take each row's error out on the rows that follow in this step.

    Row i gets the error e = (w_i - rounded) / U_ii, and each later row j is lowered by U_ij e (Frantar et al. 2022,
    section 3.3, step 2 of the algorithm's inner loop).

    Args:
        w: [B, C], the rows of one step; changed.
        factor: [B, B], the step's diagonal block of the upper factor U of the inverse Hessian.
        rows: First row to round, the one after the last, and the one after the last to be changed.
        grid: Scales and zero points [J, C]; block of each row, [B]; the largest code.
        codes: [B, C], written.
        errors: [B, C], e of each row, written.
    """
    first, last, until = rows
    scales, zeros, block_of, largest = grid
    top = np.float32(largest)
    for i in range(first, last):
        j = block_of[i]
        inverse = _ONE / factor[i, i]
        for c in range(w.shape[1]):
            level = max(_ZERO, min(top, w[i, c] * (_ONE / scales[j, c]) + zeros[j, c]))
            level = np.float32(np.int32(level + BELOW_HALF))
            codes[i, c] = np.uint8(level)
            errors[i, c] = (w[i, c] - (level - zeros[j, c]) * scales[j, c]) * inverse
        for later in range(i + 1, until):
            share = factor[i, later]
            for c in range(w.shape[1]):
                w[later, c] -= share * errors[i, c]
