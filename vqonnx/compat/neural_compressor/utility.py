"""Neural Compressor's ``torch.algorithms.weight_only.utility`` functions on arrays.

Weights are [out, in] as in torch Linear, and groups run along ``in``. What the functions return is a new array in the
type of the weight, which stays as it was: the peer works in place in some versions, and then its ``search_clip``
quantizes what it has quantized before. Codes are whole numbers in that float type too.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vqonnx.compat.neural_compressor.rows import (
    Codes,
    floats,
    qdq_weight_actor,
    qdq_weight_asym,
    qdq_weight_sym,
    quantize_4bit,
    row_codes,
)
from vqonnx.core.blocks import FloatArray
from vqonnx.kernels.blocks.codebook import CODE_BOOKS, code_book, nearest_level

__all__ = [
    "qdq_weight_actor",
    "qdq_weight_asym",
    "qdq_weight_sym",
    "quant_tensor",
    "quant_weight_w_scale",
    "quantize_4bit",
    "search_clip",
]

DoubleScale: TypeAlias = tuple[FloatArray, FloatArray, FloatArray | None]
"""Codes of scales, the scales of those, and the mean that was taken off first."""

Quantized: TypeAlias = tuple[FloatArray, FloatArray | DoubleScale, FloatArray | None]

_GRID, _SHRINK = 200, 0.2
"""``search_clip`` tries the ratios 1, 1 - 1/200 .. 0.805."""


def quant_tensor(
    weight: npt.ArrayLike,
    bits: int = 4,
    group_size: int = -1,
    scheme: str = "asym",
    quantile: float = 1.0,
    dtype: str = "int",
    return_int: bool = False,
    full_range: bool = False,
    *,
    group_dim: int = 1,
    double_quant: bool = False,
    double_quant_dtype: str = "fp32",
    double_quant_bits: int = 8,
    double_quant_scheme: str = "sym",
    double_quant_group_size: int = 256,
    double_quant_return_int: bool | None = None,
) -> FloatArray | Quantized:
    """Quantize a weight in groups along its rows, and back.

    A last group that is not full has its own scale. ``double_quant`` quantizes the scales as well, symmetrically,
    all of them as one row in groups; with the scheme "asym" their mean is taken off first and added afterwards.
    Corrected: without ``return_int`` the result is always dequantized; the peer fails where only the scales are
    wanted as codes.

    Args:
        weight: [out, in].
        bits: Bits of a code; 0 or less returns the weight.
        group_size: Elements that share a scale; -1, or more than there are, for a whole row.
        scheme: "asym" or "sym".
        quantile: Factor on the ranges.
        dtype: "int" or the name of a code book (see ``quantize_4bit``).
        return_int: Return codes and parameters.
        full_range: See ``qdq_weight_sym``.
        group_dim: 1 for groups along ``in``; 0 for groups along ``out``, with all results transposed back.
        double_quant: Quantize the scales too.
        double_quant_dtype: Name of a code book for the scales; anything else means integers.
        double_quant_bits: Bits of a scale.
        double_quant_scheme: "sym" or "asym".
        double_quant_group_size: Scales that share a scale of their own.
        double_quant_return_int: With ``return_int``: whether the scales come as codes; like ``return_int`` if None.

    Returns:
        The dequantized weight; with ``return_int`` (codes [out, in], scales [out, groups], zero points [out, groups] or
        None), the scales as (codes [out, groups], scales [1, groups of them], mean or None) where they are codes.
    """
    array = floats(weight)
    if bits <= 0:
        return array
    if group_dim == 0:
        array = array.T
    size = array.shape[1] if group_size == -1 else min(group_size, array.shape[1])

    def quantize(rows: FloatArray) -> Codes:
        return row_codes(rows, bits, scheme, quantile, dtype, return_int, full_range)

    codes, scale, zero_point = _by_groups(array, size, quantize)
    stored: FloatArray | DoubleScale = scale
    if double_quant:
        as_codes = return_int and double_quant_return_int is not False
        options = (double_quant_bits, double_quant_group_size, double_quant_dtype)
        stored, scale = _quantize_scales(scale, options, centred=double_quant_scheme == "asym", as_codes=as_codes)
        stored = stored if as_codes else scale
    if return_int:
        return _turned((codes, stored, zero_point)) if group_dim == 0 else (codes, stored, zero_point)
    if zero_point is not None:
        codes = codes - _spread(zero_point, size, codes)
    reals: FloatArray = codes * _spread(scale, size, codes)
    return reals.T if group_dim == 0 else reals


def _by_groups(array: FloatArray, size: int, quantize: Callable[[FloatArray], Codes]) -> Codes:
    """Codes [out, in], scales and zero points [out, groups] of full groups and a shorter last one."""
    out, whole = array.shape[0], array.shape[1] // size * size
    parts = [quantize(array[:, :whole].reshape(-1, size))]
    if whole < array.shape[1]:
        parts.append(quantize(array[:, whole:]))

    def joined(arrays: list[FloatArray]) -> FloatArray:
        return np.concatenate([part.reshape(out, -1) for part in arrays], axis=1)

    zero_points = [zero_point for *_, zero_point in parts if zero_point is not None]
    scales = joined([scale for _, scale, _ in parts])
    return joined([codes for codes, *_ in parts]), scales, joined(zero_points) if zero_points else None


def _quantize_scales(
    scale: FloatArray, options: tuple[int, int, str], *, centred: bool, as_codes: bool
) -> tuple[DoubleScale, FloatArray]:
    """The scales [out, groups] as codes with parameters, and what those stand for."""
    bits, group_size, dtype = options
    row = scale.reshape(1, -1)
    mean = np.asarray(row.mean()) if centred else None
    row = row if mean is None else row - mean
    size = row.shape[1] if group_size == -1 else min(group_size, row.shape[1])
    codes, hyper_scale, _ = _by_groups(
        row, size, lambda rows: row_codes(rows, bits, "sym", 1.0, dtype, as_codes, full_range=False)
    )
    values = codes
    if as_codes and dtype in CODE_BOOKS:
        values, *_ = _by_groups(
            row, size, lambda rows: row_codes(rows, bits, "sym", 1.0, dtype, False, full_range=False)
        )
    reals = values * _spread(hyper_scale, size, values) + (0 if mean is None else mean)
    return (codes.reshape(scale.shape), hyper_scale, mean), reals.reshape(scale.shape)


def _turned(quantized: Quantized) -> Quantized:
    """All arrays [a, b] as [b, a]; the parameters of doubly quantized scales stay one row."""
    codes, scale, zero_point = quantized
    turned = (scale[0].T, *scale[1:]) if isinstance(scale, tuple) else scale.T
    return codes.T, turned, None if zero_point is None else zero_point.T


def _spread(parameter: FloatArray, size: int, like: FloatArray) -> FloatArray:
    """A parameter [out, groups] repeated over its group: [out, in]."""
    return np.repeat(parameter, size, axis=1)[:, : like.shape[1]]


def search_clip(
    m: Any,
    bits: int = 4,
    group_size: int = 32,
    scheme: str = "asym",
    dtype: str = "int",
    enable_full_range: bool = False,
    *,
    group_dim: int = 1,
) -> float:
    """The ``quantile`` of 1, 0.995 .. 0.805, one for all groups, with the least mean squared error of the weight.

    The first of equals wins, so the error is never larger than at 1. Corrected: the weight is not changed between
    trials, and groups along the other axis are searched along that axis.

    Args:
        m: The weight [out, in], or an object whose attribute ``weight`` it is.
        bits: As for ``quant_tensor``, like the rest.
        group_size: Elements that share a scale.
        scheme: "asym" or "sym".
        dtype: "int" or the name of a code book.
        enable_full_range: ``full_range``.
        group_dim: Axis of the groups.
    """
    weight = floats(getattr(m, "weight", m))
    best, best_loss = 1.0, np.inf
    for step in range(int(_SHRINK * _GRID)):
        ratio = 1 - step / _GRID
        real = quant_tensor(
            weight, bits, group_size, scheme, ratio, dtype, full_range=enable_full_range, group_dim=group_dim
        )
        loss = float(np.square(weight - np.asarray(real), dtype=np.float64).mean())
        if loss < best_loss:
            best, best_loss = ratio, loss
    return best


def quant_weight_w_scale(
    weight: npt.ArrayLike,
    scale: npt.ArrayLike,
    zp: npt.ArrayLike | None,
    group_size: int = -1,
    dtype: str = "int",
) -> FloatArray:
    """Codes of a weight at given scales: ``round(w / scale + zp)``, *not* clipped to any number of bits.

    Corrected: with a code book, too, every group uses its own scale; the peer broadcasts all groups' over the row.

    Args:
        weight: [out, in].
        scale: [out, groups]; a last, shorter group uses the last one.
        zp: [out, groups], or None for 0.
        group_size: Elements that share a scale; -1 for a whole row.
        dtype: "int" or the name of a code book.
    """
    array = floats(weight)
    size = array.shape[1] if group_size == -1 else group_size

    def spread(parameter: npt.ArrayLike) -> FloatArray:
        return _spread(floats(parameter).reshape(array.shape[0], -1), size, array)

    scaled = array / spread(scale)
    if dtype in CODE_BOOKS:
        book = code_book(dtype)
        return book.codes[nearest_level(scaled, book.levels)].astype(array.dtype)
    codes: FloatArray = np.rint(scaled if zp is None else scaled + spread(zp))
    return codes
