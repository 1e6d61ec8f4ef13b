"""Codes of 2, 4 and 8 bits in bytes, and weights in blocks of them.

Everywhere the first code of a byte is in its low bits: com.microsoft.MatMulNBits, GatherBlockQuantized and ONNX's own
4-bit and 2-bit types agree on that. They differ in which axis runs first; ``k_major_codes`` and ``from_k_major`` turn
one into the other without loss.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from vqonnx.core.blocks import U8, FloatArray, KMajorBlocks, QuantizedBlocks, block_count, packed_bytes
from vqonnx.kernels.parallel import in_parallel

_TURNED_ROWS = 64


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


def slice_channels(blocks: QuantizedBlocks, start: int, stop: int) -> QuantizedBlocks:
    """The output channels [start, stop) alone; views, no copies."""
    return replace(
        blocks,
        codes=blocks.codes[start:stop],
        scales=blocks.scales[start:stop],
        zero_points=None if blocks.zero_points is None else blocks.zero_points[start:stop],
        out_features=min(stop, blocks.out_features) - start,
    )


def k_major_codes(blocks: QuantizedBlocks) -> U8:
    """The codes for DequantizeLinear, [K, N] packed: signed where symmetric, else unsigned."""
    codes = _turned(unpack_codes(blocks)).reshape(-1)
    if blocks.symmetric:
        codes ^= np.uint8(1 << (blocks.bits - 1))  # code - 2^(bits-1) in two's complement
    return pack(codes, blocks.bits)


def k_major_scales(blocks: QuantizedBlocks) -> FloatArray:
    """The scales for DequantizeLinear, [J, N]."""
    return np.ascontiguousarray(blocks.scales.T)


def k_major_zero_points(blocks: QuantizedBlocks) -> U8:
    """The zero points for DequantizeLinear, [J, N] packed, of blocks that have them."""
    return pack(_turned(unpack_zero_points(blocks)).reshape(-1), blocks.bits)


def _turned(codes: U8) -> U8:
    """The transpose of ``codes``, copied; a few rows at a time, so that lines of cache are filled at once."""
    turned = np.empty(codes.shape[::-1], np.uint8)

    def work(start: int, stop: int) -> None:
        for row in range(start * _TURNED_ROWS, stop * _TURNED_ROWS, _TURNED_ROWS):
            turned[:, row : row + _TURNED_ROWS] = codes[row : row + _TURNED_ROWS].T

    in_parallel(work, -(-len(codes) // _TURNED_ROWS))
    return turned


def from_k_major(blocks: KMajorBlocks) -> QuantizedBlocks:
    """The same codes for MatMulNBits; signed codes with zero points, and unsigned ones without, are taken too."""
    k, n = blocks.in_features, blocks.out_features
    codes = _turned(unpack(blocks.codes, blocks.bits, k * n).reshape(k, n))
    shape = (block_count(k, blocks.block_size), n)
    zero_points = _stored_zero_points(blocks).reshape(shape).T
    return _from_stored(blocks, codes, np.ascontiguousarray(blocks.scales.T), zero_points)


def from_n_major(blocks: KMajorBlocks) -> QuantizedBlocks:
    """``from_k_major`` for the transpose: codes [N, K], scales and zero points [N, J], blocks along the second axis."""
    k, n = blocks.in_features, blocks.out_features
    codes = unpack(blocks.codes, blocks.bits, k * n).reshape(n, k)
    zero_points = _stored_zero_points(blocks).reshape(n, block_count(k, blocks.block_size))
    return _from_stored(blocks, codes, blocks.scales, zero_points)


def _stored_zero_points(blocks: KMajorBlocks) -> U8:
    """One a byte, as they lie, also where they are not stored."""
    count = block_count(blocks.in_features, blocks.block_size) * blocks.out_features
    if blocks.zero_points is None:
        return np.zeros(count, np.uint8)
    return unpack(blocks.zero_points, blocks.bits, count)


def _from_stored(blocks: KMajorBlocks, codes: U8, scales: FloatArray, zero_points: U8) -> QuantizedBlocks:
    shift = np.uint8(1 << (blocks.bits - 1) if blocks.signed else 0)
    unsigned = None if blocks.signed and blocks.zero_points is None else zero_points ^ shift
    if shift:
        codes = codes ^ shift
    return pack_blocks(codes, scales, unsigned, bits=blocks.bits, block_size=blocks.block_size)
