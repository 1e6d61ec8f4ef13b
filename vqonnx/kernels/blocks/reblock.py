"""The same weight in blocks of another size, each code as it was, by repeating scales and zero points.

Runtimes have kernels for some block sizes only; what a larger block stands for, smaller ones stand for too.
"""

import numpy as np

from vqonnx.core.blocks import U8, FloatArray, QuantizedBlocks, block_count, packed_bytes
from vqonnx.errors import OptionError
from vqonnx.kernels.blocks.packing import pack, pack_blocks, slice_channels, unpack_codes, unpack_zero_points

_CHUNK_CODES = 1 << 24


def with_block_size(blocks: QuantizedBlocks, size: int) -> QuantizedBlocks:
    """The same codes in blocks of ``size``.

    Args:
        blocks: Blocks whose size is a multiple of ``size``, or one block that spans all of K.
        size: Neighbours along K that are to share a scale; a multiple of 8 / bits.

    Raises:
        OptionError: A new block would need two scales.
    """
    return QuantizedBlocks(
        codes=codes_in_blocks(blocks, size),
        scales=scales_in_blocks(blocks, size),
        zero_points=zero_points_in_blocks(blocks, size),
        bits=blocks.bits,
        block_size=size,
        in_features=blocks.in_features,
        out_features=blocks.out_features,
    )


def scales_in_blocks(blocks: QuantizedBlocks, size: int) -> FloatArray:
    """The scales, [N, ceil(K / size)]; the same array where ``size`` is the size that the blocks have."""
    _check(blocks, size)
    return blocks.scales if size == blocks.block_size else blocks.scales[:, _owners(blocks, size)]


def zero_points_in_blocks(blocks: QuantizedBlocks, size: int) -> U8 | None:
    """The zero points, packed row by row for blocks of ``size``; None where all are the middle code."""
    _check(blocks, size)
    if blocks.zero_points is None or size == blocks.block_size:
        return blocks.zero_points
    return pack(unpack_zero_points(blocks)[:, _owners(blocks, size)], blocks.bits)


def codes_in_blocks(blocks: QuantizedBlocks, size: int) -> U8:
    """The codes, [N, ceil(K / size), size * bits / 8]: a view where no padding is needed that is not there."""
    _check(blocks, size)
    count, width = block_count(blocks.in_features, size), packed_bytes(size, blocks.bits)
    if blocks.block_size % size == 0:
        return blocks.codes.reshape(blocks.out_features, -1, width)[:, :count]
    codes = np.empty((blocks.out_features, count, width), np.uint8)
    rows = max(1, _CHUNK_CODES // (count * size))
    for start in range(0, blocks.out_features, rows):
        codes[start : start + rows] = _padded(slice_channels(blocks, start, start + rows), size).codes
    return codes


def _padded(blocks: QuantizedBlocks, size: int) -> QuantizedBlocks:
    owners = _owners(blocks, size)
    zero_points = None if blocks.zero_points is None else unpack_zero_points(blocks)[:, owners]
    scales = blocks.scales[:, owners]
    return pack_blocks(unpack_codes(blocks), scales, zero_points, bits=blocks.bits, block_size=size)


def _owners(blocks: QuantizedBlocks, size: int) -> np.ndarray:
    """For each new block the old one that it lies in."""
    return np.arange(block_count(blocks.in_features, size)) * size // blocks.block_size


def _check(blocks: QuantizedBlocks, size: int) -> None:
    if blocks.blocks > 1 and blocks.block_size % size:
        raise OptionError(
            f"blocks of {blocks.block_size} cannot be split into blocks of {size} that each have one scale",
            option="block_size",
        )
