"""Blocks of codes as a DequantizeLinear with ``block_size`` on axis 0 of [K, N] (opset 21; 2 bits: opset 25).

ONNX Runtime 1.31 fuses blocks of 16 to 256 at 2, 4 and 8 bits; 1.24 only those of 4 bits in front of a float32 MatMul.
"""

from functools import partial

import onnx_ir as ir

from vqonnx.core.blocks import QuantizedBlocks
from vqonnx.emitters.weights.dequantize import DequantizedWeight, code_type, refuse_ragged
from vqonnx.emitters.weights.matmul_nbits import fast_block_size
from vqonnx.graph.packed import computed_tensor
from vqonnx.kernels.blocks.packing import k_major_codes, k_major_scales, k_major_zero_points
from vqonnx.kernels.blocks.reblock import with_block_size


def in_blocks(key: str, blocks: QuantizedBlocks) -> DequantizedWeight:
    """The weight with one scale, and one zero point, a block; its tensors are computed when they are written.

    Args:
        key: What the names of the initializers start with.
        blocks: The weight; sizes without a fast kernel are split.

    Raises:
        OptionError: There is no fast kernel for these blocks.
        UnsupportedModelError: ONNX Runtime would fuse them to wrong numbers.
    """
    refuse_ragged(blocks)
    size = fast_block_size(blocks)
    if size != blocks.block_size:
        blocks = with_block_size(blocks, size)
    dtype, grid = code_type(blocks), (blocks.blocks, blocks.out_features)
    zero_points = None
    if not blocks.symmetric:
        zero_points = computed_tensor(partial(k_major_zero_points, blocks), dtype, grid)
    return DequantizedWeight(
        key,
        computed_tensor(partial(k_major_codes, blocks), dtype, (blocks.in_features, blocks.out_features)),
        computed_tensor(partial(k_major_scales, blocks), ir.DataType.from_numpy(blocks.scales.dtype), grid),
        zero_points,
        {"axis": 0, "block_size": size},
    )
