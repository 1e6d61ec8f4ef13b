"""One scale an output channel, as a DequantizeLinear on axis 1 of [K, N].

Int8 since opset 13 (float16: 19), 4 bits since 21, 2 bits since 25. ONNX Runtime 1.31 fuses it to MatMulNBits with
blocks of 32 that repeat the scale; 1.24 makes the weight float at each call.
"""

from functools import partial

import numpy as np
import onnx_ir as ir

from vqonnx.core.blocks import QuantizedBlocks
from vqonnx.emitters.weights.dequantize import DequantizedWeight, code_type, refuse_ragged
from vqonnx.errors import OptionError
from vqonnx.graph.packed import computed_tensor
from vqonnx.kernels.blocks.packing import k_major_codes, k_major_zero_points


def per_channel(key: str, blocks: QuantizedBlocks) -> DequantizedWeight:
    """The weight with one scale, and one zero point, a channel; its codes are computed when they are written.

    Args:
        key: What the names of the initializers start with.
        blocks: The weight, with one block that spans all of K.

    Raises:
        OptionError: There are several blocks.
        UnsupportedModelError: ONNX Runtime would fuse them to wrong numbers.
    """
    refuse_ragged(blocks)
    if blocks.blocks != 1:
        raise OptionError(
            f"one scale an output channel needs one block, but weight {key!r} has {blocks.blocks} of "
            f"{blocks.block_size}: use block_size=-1",
            option="block_size",
        )
    dtype, n = code_type(blocks), blocks.out_features
    zero_points = None
    if not blocks.symmetric:
        zero_points = computed_tensor(partial(k_major_zero_points, blocks), dtype, (n,))
    return DequantizedWeight(
        key,
        computed_tensor(partial(k_major_codes, blocks), dtype, (blocks.in_features, n)),
        ir.Tensor(np.ascontiguousarray(blocks.scales[:, 0])),
        zero_points,
        {"axis": 1},
    )
