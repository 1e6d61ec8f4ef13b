"""Neural Compressor's functions on rows: one group a row, one scale a row. ``utility`` says what holds for all."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vqonnx.core.blocks import FloatArray
from vqonnx.errors import OptionError
from vqonnx.kernels.blocks.codebook import CODE_BOOKS, CodeBook, code_book, nearest_level

Codes: TypeAlias = tuple[FloatArray, FloatArray, FloatArray | None]
"""Codes, their scale and zero point (None if it is 0); rows of the codes share them."""


def quantize_4bit(
    tensor: npt.ArrayLike, quantile: float = 1.0, dtype: str = "nf4", return_int: bool = False, **kwargs: Any
) -> FloatArray | Codes:
    """Replace each element by the nearest value of a code book; halfway between two, the lower one.

    Corrected: a row of zeros gets the scale 1 and stays zero; the peer divides 0 by 0.

    Args:
        tensor: [rows, group].
        quantile: Factor on the largest magnitude.
        dtype: "nf4", "fp4", "fp4_e2m1" or "fp4_e2m1_bnb"; the scale is the largest magnitude by that of the book,
            1, 12, 6 or 12.
        return_int: Return the codes.
        kwargs: ``scale`` [rows, 1]: used instead; ``double_quant``: whether to return the book's values.

    Returns:
        Dequantized values; with ``return_int`` (codes, scale, None), with ``double_quant`` (values, scale, None).

    Raises:
        OptionError: There is no such code book.
    """
    codes = _book_codes(floats(tensor), quantile, code_book(dtype), return_int, kwargs.get("scale"))
    return _result(codes, return_int, kwargs)


def _book_codes(
    array: FloatArray, quantile: float, book: CodeBook, return_int: bool, scale: npt.ArrayLike | None = None
) -> Codes:
    if scale is None:
        scale = _usable(np.abs(array).max(axis=1, keepdims=True) * quantile / float(book.levels[-1]))
    places = nearest_level(array / floats(scale), book.levels)
    values: FloatArray = (book.codes if return_int else book.levels)[places].astype(array.dtype)
    return values, floats(scale), None


def qdq_weight_asym(
    weight: npt.ArrayLike, bits: int = 4, quantile: float = 1.0, return_int: bool = False, **kwargs: Any
) -> FloatArray | Codes:
    """Quantize rows from min(row, 0) to max(row, 0), and back.

    ``code = clip(round(w / scale) + zero_point, 0, 2^bits - 1)``, rounded before the zero point is added. Corrected:
    the in-place version of January 2024 left the zero point out, so that negative weights became 0.

    Args:
        weight: [rows, group].
        bits: Bits of a code.
        quantile: Factor on both ends of the range.
        return_int: Return the codes.
        kwargs: ``double_quant``: return the codes too.

    Returns:
        Dequantized weight, or (codes, scale, zero point) with both parameters [rows, 1].
    """
    return _result(_asym_codes(floats(weight), bits, quantile), return_int, kwargs)


def _asym_codes(array: FloatArray, bits: int, quantile: float) -> Codes:
    top = (1 << bits) - 1
    low = np.minimum(array.min(axis=1, keepdims=True), 0) * quantile
    high = np.maximum(array.max(axis=1, keepdims=True), 0) * quantile
    empty = (low == 0) & (high == 0)
    low, high = np.where(empty, -np.ones_like(low), low), np.where(empty, np.ones_like(high), high)
    scale = (high - low) / top
    zero_point = np.rint(-low / scale)
    codes = np.clip(np.rint(array / scale) + zero_point, 0, top)
    return codes, scale, zero_point


def qdq_weight_sym(
    weight: npt.ArrayLike,
    bits: int = 4,
    quantile: float = 1.0,
    return_int: bool = False,
    full_range: bool = False,
    **kwargs: Any,
) -> FloatArray | Codes:
    """Quantize rows symmetrically to signed codes, and back.

    The scale is amax / (2^(bits-1) - 1). With ``full_range`` it is amax / 2^(bits-1), negative where the largest
    magnitude is positive, so that this element gets exactly the lowest code (the peer's text has the signs the other
    way round, its code as here). Corrected: rows of one positive value get a negative scale too, and are not clipped.

    Args:
        weight: [rows, group].
        bits: Bits of a code; one bit has the codes 0 and 1.
        quantile: Factor on amax.
        return_int: Return the codes.
        full_range: Use the lowest code.
        kwargs: ``double_quant``: return the codes too.

    Returns:
        Dequantized weight, or (codes, scale [rows, 1], None).
    """
    return _result(_sym_codes(floats(weight), bits, quantile, full_range), return_int, kwargs)


def _sym_codes(array: FloatArray, bits: int, quantile: float, full_range: bool) -> Codes:
    smallest, largest = (0, 1) if bits == 1 else (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    low, high = array.min(axis=1, keepdims=True), array.max(axis=1, keepdims=True)
    amax = _usable(np.maximum(np.abs(low), np.abs(high)) * quantile)
    scale = amax / (largest if not full_range else 1 << (bits - 1))
    if full_range:
        scale = np.where(high > -low, -scale, scale)
    return np.clip(np.rint(array / scale), smallest, largest), scale, None


def qdq_weight_actor(
    weight: npt.ArrayLike,
    bits: int,
    scheme: str,
    quantile: float = 1.0,
    dtype: str = "int",
    return_int: bool = False,
    full_range: bool = False,
    **kwargs: Any,
) -> FloatArray | Codes:
    """``quantize_4bit`` for the name of a code book, else ``qdq_weight_sym`` or ``qdq_weight_asym`` by scheme.

    ``kwargs`` is passed on where it matters: ``double_quant`` returns the codes too.

    Raises:
        OptionError: ``bits`` is not positive.
    """
    codes = row_codes(floats(weight), bits, scheme, quantile, dtype, return_int, full_range)
    return _result(codes, return_int, kwargs)


def row_codes(
    array: FloatArray, bits: int, scheme: str, quantile: float, dtype: str, return_int: bool, full_range: bool
) -> Codes:
    """``qdq_weight_actor`` before it decides what to return; of a code book its values unless ``return_int``."""
    if bits <= 0:
        raise OptionError(f"bits must be larger than 0, got {bits}", option="bits")
    if dtype in CODE_BOOKS:
        return _book_codes(array, quantile, code_book(dtype), return_int)
    if scheme == "sym":
        return _sym_codes(array, bits, quantile, full_range)
    return _asym_codes(array, bits, quantile)


def floats(array: Any) -> FloatArray:
    """A float array from anything that numpy takes, and from a tensor that records gradients."""
    taken = np.asarray(array.detach() if hasattr(array, "detach") else array)
    return taken.astype(np.float32) if taken.dtype.kind in "biu" else taken


def _usable(amax: FloatArray) -> FloatArray:
    """1 where it is 0."""
    return np.where(amax == 0, np.ones_like(amax), amax)


def _result(codes: Codes, return_int: bool, options: dict[str, Any]) -> FloatArray | Codes:
    """The codes where they are wanted, else what they stand for."""
    if return_int or options.get("double_quant", False):
        return codes
    values, scale, zero_point = codes
    reals: FloatArray = (values if zero_point is None else values - zero_point) * scale
    return reals
