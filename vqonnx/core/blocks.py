"""A weight in packed blocks: what every weight-only algorithm returns and every weight-only form is written from."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from vqonnx.errors import OptionError

U8 = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.floating]

PACKED_BITS = (2, 4, 8)
PER_CHANNEL = -1
"""Block size that means: one scale an output channel."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpec:
    """How a weight is cut into blocks, and which codes a block has.

    Attributes:
        bits: 2, 4 or 8.
        block_size: Neighbours along K that share a scale: 16, 32, 64, 128, 256, or -1 for all of them.
        symmetric: Whether every zero point is the middle code; each block has its own otherwise.

    Raises:
        OptionError: ONNX Runtime has no kernel for these bits or this block size.
    """

    bits: int = 4
    block_size: int = 32
    symmetric: bool = False

    def __post_init__(self) -> None:
        if self.bits not in PACKED_BITS:
            raise OptionError(f"bits must be one of {PACKED_BITS}, got {self.bits}", option="bits")
        size = self.block_size
        if size != PER_CHANNEL and (size & (size - 1) or not 16 <= size <= 256):
            raise OptionError(
                f"block_size must be a power of two from 16 to 256, or -1 for one scale a channel, got {size}",
                option="block_size",
            )

    def size_for(self, in_features: int) -> int:
        """The block size in elements for a weight with ``in_features`` rows."""
        return in_features if self.block_size == PER_CHANNEL else self.block_size


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantizedBlocks:
    """A weight W [K, N] with one scale, and one zero point, for each block of neighbours along K.

    ``W[k, n] = (code[n, k] - zero_point[n, j]) * scale[n, j]`` with ``j = k // block_size``. The arrays lie as
    com.microsoft.MatMulNBits reads them: row by row of the output, the first code of a byte in its low bits.

    Attributes:
        codes: uint8 [N, J, ceil(block_size * bits / 8)]; codes behind K equal the zero point, so they mean 0.
        scales: [N, J], in the weight's own float type; may be negative where the block is symmetric.
        zero_points: uint8 [N, ceil(J * bits / 8)], packed row by row; None if every one is ``2^(bits - 1)``.
        bits: 2, 4 or 8.
        block_size: Neighbours along K that share a scale; K itself when there is one scale an output channel.
        in_features: K, the length of the sum that the weight stands in.
        out_features: N.
    """

    codes: U8
    scales: FloatArray
    zero_points: U8 | None
    bits: int
    block_size: int
    in_features: int
    out_features: int

    def __post_init__(self) -> None:
        n, j = self.out_features, block_count(self.in_features, self.block_size)
        wanted = {
            "codes": (n, j, packed_bytes(self.block_size, self.bits)),
            "scales": (n, j),
            "zero_points": (n, packed_bytes(j, self.bits)),
        }
        for name, shape in wanted.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise OptionError(f"{name} of packed blocks must have shape {shape}, got {array.shape}", option=name)

    @property
    def blocks(self) -> int:
        """J, the number of blocks along K."""
        return block_count(self.in_features, self.block_size)

    @property
    def symmetric(self) -> bool:
        """Whether every zero point is the middle code, ``2^(bits - 1)``, and therefore not stored."""
        return self.zero_points is None

    @property
    def nbytes(self) -> int:
        """Bytes of all three arrays."""
        return self.codes.nbytes + self.scales.nbytes + (0 if self.zero_points is None else self.zero_points.nbytes)


def block_count(in_features: int, block_size: int) -> int:
    """Blocks of ``block_size`` that cover ``in_features`` elements; the last one may be shorter."""
    return -(-in_features // block_size)


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that ``count`` codes of ``bits`` bits take, the last one padded."""
    return -(-count * bits // 8)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KMajorBlocks:
    """The same weight as ONNX's DequantizeLinear with a ``block_size`` reads it on axis 0 of [K, N] (opset 21).

    Attributes:
        codes: uint8 [ceil(K * N * bits / 8)], the packed data of a (U)INT2, (U)INT4 or (U)INT8 tensor [K, N].
        scales: [J, N].
        zero_points: uint8 [ceil(J * N * bits / 8)], packed data of a tensor [J, N] of the same type; None if all are 0.
        signed: Whether codes and zero points are two's complement.
        bits: 2, 4 or 8.
        block_size: Neighbours along K that share a scale.
        in_features: K.
        out_features: N.
    """

    codes: U8
    scales: FloatArray
    zero_points: U8 | None
    signed: bool
    bits: int
    block_size: int
    in_features: int
    out_features: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CodebookBlocks:
    """A weight W [K, N] of 4-bit indices into a code book, as com.microsoft.MatMulBnb4 reads it.

    The transpose [N, K] is cut into blocks as one flat sequence: a block may end in the next row.

    Attributes:
        codes: uint8 [ceil(N * K / 2)], the first code of a byte in its *high* bits.
        absmax: [ceil(N * K / block_size)], the real value of the book's 1, in the weight's own float type.
        book: Name of the code book: "nf4" or "fp4".
        block_size: Neighbours that share a scale.
        in_features: K.
        out_features: N.
    """

    codes: U8
    absmax: FloatArray
    book: str
    block_size: int
    in_features: int
    out_features: int


PackedWeight: TypeAlias = QuantizedBlocks | CodebookBlocks
