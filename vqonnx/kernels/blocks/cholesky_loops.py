"""The compiled loop behind ``cholesky.py``."""

import math

import numpy as np
import numpy.typing as npt

from vqonnx.kernels.jit import compiled

F64 = npt.NDArray[np.float64]


@compiled
def factor(block: F64, least: F64, dependent: npt.NDArray[np.bool_]) -> None:
    """Replace a symmetric block by its lower Cholesky factor.

    Args:
        block: [B, B]; its upper triangle becomes 0.
        least: What must be more than this on the diagonal for a column not to become 0, [B].
        dependent: Whether a column did, [B], written.
    """
    column = np.empty(len(block))
    for j in range(len(block)):
        block[:j, j] = 0.0
        dependent[j] = not block[j, j] > least[j]
        if dependent[j]:
            block[j:, j] = 0.0
            continue
        root = math.sqrt(block[j, j])
        for i in range(j, len(block)):
            block[i, j] /= root
            column[i] = block[i, j]
        for i in range(j + 1, len(block)):
            for m in range(j + 1, i + 1):
                block[i, m] -= column[i] * column[m]
