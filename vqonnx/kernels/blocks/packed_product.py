"""Products with a packed weight, of which a few columns at a time are made float."""

import numpy as np
import numpy.typing as npt

from vqonnx.core.blocks import PackedWeight
from vqonnx.kernels.blas import one_blas_thread, over_columns
from vqonnx.kernels.blocks.errors import subtraction

F32 = npt.NDArray[np.float32]


def packed_product(x: npt.NDArray[np.floating], packed: PackedWeight, *, threads: int | None = None) -> F32:
    """``x W`` for the weight W [K, N] that ``packed`` stands for, in single precision.

    Args:
        x: [R, K], a few rows.
        packed: The weight.
        threads: Threads to use, one a processor if None; the result does not depend on it.

    Returns:
        [R, N].
    """
    inputs, subtract = np.ascontiguousarray(x, np.float32), subtraction(packed)
    product = np.empty((len(inputs), packed.out_features), np.float32)

    def tile(left: int, right: int) -> None:
        nothing = np.zeros((packed.in_features, right - left), np.float32)
        product[:, left:right] = inputs @ subtract(nothing, left)  # which leaves -W

    with one_blas_thread():
        over_columns(tile, packed.out_features, threads=threads)
    return -product
