"""Neural Compressor's functions for weights [K, N] of ONNX MatMul, on arrays; ``onnxrt`` says what holds for all."""

import numpy as np
import numpy.typing as npt

from vqonnx.core.blocks import FloatArray

F64 = npt.NDArray[np.float64]


def pad_tensor(weight: npt.ArrayLike, group_size: int, k_blocks: int) -> FloatArray:
    """Add rows of zeros to a weight [K, N] until it has ``k_blocks * group_size`` rows.

    Args:
        weight: [K, N].
        group_size: Rows of a group; -1 leaves the weight as it is.
        k_blocks: Number of groups, ``(K - 1) // group_size + 1``.
    """
    array = np.asarray(weight)
    missing = k_blocks * group_size - array.shape[0]
    if group_size == -1 or missing <= 0:
        return array
    return np.pad(array, ((0, missing), (0, 0)))


def quant_tensor(
    data: npt.ArrayLike,
    num_bits: int = 4,
    group_size: int = 32,
    scheme: str = "asym",
    dtype: str = "int",
    ratio: float = 1.0,
) -> tuple[F64, F64, npt.NDArray[np.generic]]:
    """Codes, scale and zero point of each group.

    ``code = clip(round(data / scale + zero_point))``: rounded after the zero point is added, halves to even. Zero is
    not forced into a group's range; with dtype "uint" a group far from zero is therefore clipped.

    Args:
        data: The transposed weight [N, K], K divisible by ``group_size``: groups run along the last axis.
        num_bits: Bits of a code, from 1.
        group_size: Elements that share a scale and zero point; -1 for a whole row.
        scheme: "asym", or "sym" with the scale ``2 * amax / (maxq - minq)``.
        dtype: "int": symmetric codes are signed, zero points not clipped; "uint": all codes are from 0 on.
        ratio: Factor on both ends of the range.

    Returns:
        Codes [groups, group_size] as float64, scales [groups, 1] as float64 (1 for a group of one value), and zero
        points [groups, 1]: uint8 for "uint", else float64.
    """
    array = np.asarray(data)
    rows = array.reshape(-1, array.shape[-1] if group_size == -1 else group_size)
    symmetric, unsigned = scheme == "sym", dtype == "uint"
    smallest, largest = code_range(num_bits, signed=symmetric and not unsigned)
    low, high = rows.min(axis=1, keepdims=True) * ratio, rows.max(axis=1, keepdims=True) * ratio
    scale = group_scale(low, high, largest - smallest, symmetric=symmetric)
    zero_point: npt.NDArray[np.generic]
    if symmetric:
        zero_point = np.full(scale.shape, 1 << (num_bits - 1), np.uint8) if unsigned else np.zeros(scale.shape)
    else:
        zero_point = np.rint(-low.astype(np.float64) / scale)
        if unsigned:
            zero_point = np.clip(zero_point, 0, largest).astype(np.uint8)
    codes = np.clip(np.rint(rows / scale + zero_point.astype(np.float64)), smallest, largest)
    return codes, scale, zero_point


def group_scale(low: FloatArray, high: FloatArray, steps: int, *, symmetric: bool) -> F64:
    """The scale of groups that reach from ``low`` to ``high``, or as far on both sides, in so many steps.

    1 for a group whose ends are one.
    """
    spread = 2 * np.maximum(np.abs(low), np.abs(high)) if symmetric else high - low
    scale = np.ones(spread.shape)
    scale[spread > 0] = spread[spread > 0].astype(np.float64) / steps
    return scale


def code_range(bits: int, *, signed: bool) -> tuple[int, int]:
    """Smallest and largest code; one signed bit holds -1 and 0."""
    if not signed:
        return 0, (1 << bits) - 1
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def qdq_tensor(
    data: npt.ArrayLike,
    num_bits: int = 4,
    group_size: int = 32,
    scheme: str = "asym",
    dtype: str = "int",
    ratio: float = 1.0,
) -> F64:
    """``scale * (code - zero_point)`` in the shape of ``data``; see ``quant_tensor``."""
    codes, scale, zero_point = quant_tensor(data, num_bits, group_size, scheme, dtype, ratio)
    reals: F64 = scale * (codes - zero_point.astype(np.float64))
    return reals.reshape(np.shape(data))
