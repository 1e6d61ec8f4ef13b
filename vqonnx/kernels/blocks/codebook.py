"""Code books: sixteen or fewer real numbers that 4-bit codes stand for, and the nearest of them.

NF4 holds quantiles of a normal distribution (Dettmers et al. 2023, arXiv:2305.14314, appendix E). FP4 is the 4-bit
float of bitsandbytes. FP4_E2M1 is what Neural Compressor calls so; it is *not* OCP's E2M1, which ONNX's FLOAT4E2M1 is:
it has 1/16 where that has 1/2.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vqonnx.core.blocks import U8, CodebookBlocks, FloatArray, block_count
from vqonnx.errors import OptionError, QuantRangeError, nearest
from vqonnx.kernels.blocks.packing import pack, unpack
from vqonnx.kernels.parallel import in_parallel

F32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class CodeBook:
    """Real numbers and their codes.

    Attributes:
        name: Its name in Neural Compressor and bitsandbytes.
        levels: float64, ascending, as published: the largest magnitude is 1, 6 or 12.
        codes: int8, the 4-bit number of each level in two's complement, as Neural Compressor stores it; 0.0 has code 0.
        nibbles: uint8, the number of each level in com.microsoft.MatMulBnb4; None if that has no such book.
        quant_type: MatMulBnb4's attribute for this book; None likewise.
    """

    name: str
    levels: npt.NDArray[np.float64]
    codes: npt.NDArray[np.int8]
    nibbles: U8 | None = None
    quant_type: int | None = None

    @property
    def values(self) -> F32:
        """The levels divided by the largest, float32: what a block's ``absmax`` is multiplied by."""
        values: F32 = (self.levels / self.levels[-1]).astype(np.float32)
        return values


def nearest_level(values: FloatArray, levels: FloatArray) -> U8:
    """Index of the nearest of ``levels`` (ascending) for each of ``values``; halfway between two, the lower one.

    What lies outside becomes the first or the last level, and NaN the first. The comparison is made in float32.
    """
    from vqonnx.kernels.blocks.codebook_loops import count_below

    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    middles, places = ((levels[1:] + levels[:-1]) / 2).astype(np.float32), np.empty(flat.size, np.uint8)
    in_parallel(lambda a, b: count_below(flat[a:b], middles, places[a:b]), flat.size)
    return places.reshape(np.shape(values))


def _mirrored(*positive: float) -> npt.NDArray[np.float64]:
    """Ascending: the negatives, 0, the positives."""
    half = np.array(positive)
    return np.concatenate([-half[::-1], [0.0], half])


_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_FP4_CODES = np.array([-5, -6, -3, -4, -1, -2, -7, 0, 1, 6, 7, 4, 5, 2, 3], np.int8)

NF4 = CodeBook(
    "nf4",
    np.array(_NF4),
    np.array([7, 1, 2, 3, 4, 5, 6, 0, -8, -7, -6, -5, -4, -3, -2, -1], np.int8),
    np.arange(16, dtype=np.uint8),
    1,
)
FP4 = CodeBook("fp4", _mirrored(0.0625, 2, 3, 4, 6, 8, 12), _FP4_CODES, _FP4_CODES.view(np.uint8) & np.uint8(15), 0)
FP4_E2M1 = CodeBook(
    "fp4_e2m1",
    _mirrored(0.0625, 1, 1.5, 2, 3, 4, 6),
    np.array([-1, -2, -3, -4, -5, -6, -7, 0, 1, 2, 3, 4, 5, 6, 7], np.int8),  # sign and magnitude: 1111 is -6
)

CODE_BOOKS = {"nf4": NF4, "fp4": FP4, "fp4_e2m1": FP4_E2M1, "fp4_e2m1_bnb": FP4}
"""By the names that Neural Compressor gives them."""


def code_book(name: str) -> CodeBook:
    """The book of that name.

    Raises:
        OptionError: There is none.
    """
    if name not in CODE_BOOKS:
        raise OptionError(f"unknown code book {name!r}{nearest(name, CODE_BOOKS)}", option="dtype")
    return CODE_BOOKS[name]


def round_to_book(weight: FloatArray, book: CodeBook, block_size: int) -> CodebookBlocks:
    """Round a weight [K, N] to the nearest values of ``book``, each block scaled by its largest magnitude.

    A block of nothing but 0 gets the scale 1.

    Raises:
        OptionError: MatMulBnb4 does not know the book.
        QuantRangeError: The weight holds NaN or infinite values.
    """
    if book.nibbles is None:
        raise OptionError(
            f"com.microsoft.MatMulBnb4 has no code book {book.name!r}; use 'nf4' or 'fp4'", option="dtype"
        )
    k, n = weight.shape
    flat = np.zeros(block_count(k * n, block_size) * block_size, np.float32)
    flat[: k * n] = np.ascontiguousarray(weight.T).reshape(-1)
    blocks = flat.reshape(-1, block_size)
    absmax = np.maximum(blocks.max(axis=1), -blocks.min(axis=1))
    if not np.isfinite(absmax).all():
        raise QuantRangeError("the weight holds NaN or infinite values, for which no scale exists")
    absmax = np.where(absmax == 0, np.float32(1), np.maximum(absmax, np.float32(2.0**-126)))
    blocks *= (np.float32(1) / absmax)[:, None]
    codes = book.nibbles[nearest_level(flat[: k * n], book.values)]
    swapped = pack(codes, 4)
    return CodebookBlocks(
        codes=(swapped << np.uint8(4)) | (swapped >> np.uint8(4)),
        absmax=absmax.astype(weight.dtype),
        book=book.name,
        block_size=block_size,
        in_features=k,
        out_features=n,
    )


def dequantize_from_book(blocks: CodebookBlocks) -> FloatArray:
    """The weight [K, N] that the blocks stand for, in the dtype of ``absmax``."""
    weight: FloatArray = book_columns(blocks, 0, blocks.out_features).astype(blocks.absmax.dtype)
    return weight


def book_columns(blocks: CodebookBlocks, left: int, right: int) -> F32:
    """The columns [left, right) of the weight that the blocks stand for, float32 [K, right - left]."""
    book, k = code_book(blocks.book), blocks.in_features
    table = np.zeros(16, np.float32)
    table[book.nibbles] = book.values
    first, last = left * k, right * k
    some = blocks.codes[first // 2 : -(-last // 2)]
    nibbles = unpack((some << np.uint8(4)) | (some >> np.uint8(4)), 4, 2 * some.size)[first % 2 :][: last - first]
    scales = blocks.absmax[np.arange(first, last) // blocks.block_size].astype(np.float32)
    return (table[nibbles] * scales).reshape(right - left, k).T
