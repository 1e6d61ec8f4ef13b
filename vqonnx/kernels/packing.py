"""Codes of 2, 4 and 8 bits in bytes, and weights in blocks of them.

Everywhere the first code of a byte is in its low bits: com.microsoft.MatMulNBits, GatherBlockQuantized and ONNX's own
4-bit and 2-bit types agree on that. They differ in which axis runs first; see ``to_rows`` and ``from_rows``.
"""

import numpy as np
import numpy.typing as npt

from vqonnx.core.blocks import U8, FloatArray, QuantizedBlocks, block_count, packed_bytes


def pack(codes: U8, bits: int) -> U8:
    """Codes [.., C], each below ``2^bits``, as bytes [.., ceil(C * bits / 8)]; bits left over are 0."""
    per_byte = 8 // bits
    if per_byte == 1:
        return np.ascontiguousarray(codes)
    count = codes.shape[-1]
    packed = np.zeros((*codes.shape[:-1], packed_bytes(count, bits)), np.uint8)
    for place in range(per_byte):
        part = codes[..., place::per_byte]
        packed[..., : part.shape[-1]] |= part << np.uint8(place * bits)
    return packed


def unpack(packed: U8, bits: int, count: int) -> U8:
    """The first ``count`` codes of each row: bytes [.., B] as codes [.., count]."""
    per_byte = 8 // bits
    if per_byte == 1:
        return packed[..., :count]
    codes = np.empty((*packed.shape[:-1], count), np.uint8)
    for place in range(per_byte):
        part = codes[..., place::per_byte]
        part[...] = (packed[..., : part.shape[-1]] >> np.uint8(place * bits)) & np.uint8((1 << bits) - 1)
    return codes


def pack_blocks(
    codes: U8, scales: FloatArray, zero_points: U8 | None, *, bits: int, block_size: int
) -> QuantizedBlocks:
    """Pack chosen codes.

    Args:
        codes: uint8 [N, K], each below ``2^bits``; a transposed [K, N] array needs no copy first.
        scales: [N, J], J = ceil(K / block_size).
        zero_points: uint8 [N, J], one a block; None if all are ``2^(bits - 1)``.
        bits: 2, 4 or 8.
        block_size: Neighbours along K that share a scale.
    """
    n, k = codes.shape
    blocks = block_count(k, block_size)
    padded = np.empty((n, blocks * block_size), np.uint8)
    padded[:, :k] = codes
    padded[:, k:] = 1 << (bits - 1) if zero_points is None else zero_points[:, -1:]
    return QuantizedBlocks(
        codes=pack(padded.reshape(n, blocks, block_size), bits),
        scales=scales,
        zero_points=None if zero_points is None else pack(zero_points, bits),
        bits=bits,
        block_size=block_size,
        in_features=k,
        out_features=n,
    )


def unpack_codes(blocks: QuantizedBlocks) -> U8:
    """The codes, uint8 [N, K]."""
    codes = unpack(blocks.codes, blocks.bits, blocks.block_size).reshape(blocks.out_features, -1)
    return codes[:, : blocks.in_features]


def unpack_zero_points(blocks: QuantizedBlocks) -> U8:
    """The zero points, uint8 [N, J], also where they are not stored."""
    if blocks.zero_points is None:
        return np.full(blocks.scales.shape, 1 << (blocks.bits - 1), np.uint8)
    return unpack(blocks.zero_points, blocks.bits, blocks.blocks)


def dequantize_blocks(blocks: QuantizedBlocks) -> FloatArray:
    """The weight [K, N] that the blocks stand for, in the scales' dtype: ``(code - zero_point) * scale``."""

    def spread(parameter: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        return np.repeat(parameter, blocks.block_size, axis=1)[:, : blocks.in_features]

    reals = unpack_codes(blocks).astype(np.float32)
    reals -= spread(unpack_zero_points(blocks).astype(np.float32))
    reals *= spread(blocks.scales.astype(np.float32))
    weight: FloatArray = reals.T.astype(blocks.scales.dtype)
    return weight
