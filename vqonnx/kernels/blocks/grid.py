"""Grids of a weight in blocks: which numbers the codes of a block stand for.

A weight is W [K, N] as MatMul has it, K along the sum. A block is ``block_size`` neighbours along K in one column; it
has a scale and an integer zero point, ``W[k, n] ~ (code - zero_point) * scale``. The last block may be shorter.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vqonnx.core.blocks import BlockSpec, QuantizedBlocks, block_count
from vqonnx.errors import OptionError, QuantRangeError
from vqonnx.kernels.blas import over_columns
from vqonnx.kernels.blocks.packing import pack_blocks
from vqonnx.kernels.blocks.rounding import quantize_blocks

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.floating]

_HALF_SMALLEST, _HALF_LARGEST = np.float32(2.0**-24), np.float32(65504.0)


def top_code(spec: BlockSpec) -> int:
    """The largest code of ``spec``."""
    return (1 << spec.bits) - 1


def middle_code(spec: BlockSpec) -> int:
    """The zero point of a symmetric block."""
    return 1 << (spec.bits - 1)


@dataclass(frozen=True, slots=True, eq=False)
class BlockGrid:
    """Scale and zero point of each block.

    Attributes:
        scales: float32 [J, N], J blocks along K; finite, not 0, negative only in symmetric formats.
        zero_points: float32 [J, N]: whole numbers within the codes.
    """

    scales: F32
    zero_points: F32

    def scaled(self, ratio: np.float32) -> "BlockGrid":
        """The grid with every scale times ``ratio``; what then lies beyond the codes is clipped."""
        return BlockGrid(self.scales * ratio, self.zero_points)

    def rounded(self, dtype: npt.DTypeLike) -> "BlockGrid":
        """The grid with its scales as a weight of ``dtype`` stores them; float16 ones never become 0 or infinite."""
        if np.dtype(dtype).itemsize >= 4:
            return self
        scales = self.scales
        if np.dtype(dtype) == np.float16:
            scales = np.copysign(np.clip(np.abs(scales), _HALF_SMALLEST, _HALF_LARGEST), scales)
        return BlockGrid(scales.astype(dtype).astype(np.float32), self.zero_points)


def matrix_shape(weight: FloatArray) -> tuple[int, int]:
    """K and N of a weight [K, N].

    Raises:
        QuantRangeError: It is not a matrix.
    """
    if weight.ndim != 2:
        raise QuantRangeError(f"a weight in blocks must have two axes [K, N], got shape {weight.shape}")
    k, n = weight.shape
    return k, n


def checked_weight(weight: FloatArray) -> F32:
    """``weight`` as contiguous float32 [K, N].

    Raises:
        QuantRangeError: It is not a matrix, or holds NaN or infinity.
    """
    matrix_shape(weight)
    single = np.ascontiguousarray(weight, np.float32)
    if not np.isfinite(single).all():
        raise QuantRangeError("the weight holds NaN or infinite values, for which no scale exists")
    return single


def checked_energy(energy: npt.ArrayLike | None, k: int) -> F32:
    """Weights of the K rows' squared errors as float32 [K] with mean 1; ones where there are none.

    Rows without any energy still count with 1e-6 of the mean, so that their codes are not arbitrary.

    Raises:
        OptionError: It has another length than K, or holds negative or non-finite numbers.
    """
    if energy is None:
        return np.ones(k, np.float32)
    given = np.asarray(energy, np.float64)
    if given.shape != (k,) or not np.isfinite(given).all() or (given < 0).any():
        raise OptionError(f"energy must be {k} finite numbers >= 0, one a row of the weight", option="energy")
    mean = given.mean() if k else 0.0
    return np.maximum(given / mean if mean > 0 else np.ones(k), 1e-6).astype(np.float32)


def min_max_grid(weight: F32, spec: BlockSpec, *, threads: int | None = None) -> BlockGrid:
    """The grid of round-to-nearest, as ``blocks.rounding.round_blocks`` chooses it for float32 weights.

    Args:
        weight: float32 [K, N].
        spec: Bits, block size, symmetry.
        threads: Threads to use; as many as there are processors if None.
    """
    from vqonnx.kernels.blocks import grid_loops

    k, n = weight.shape
    size = spec.size_for(k)
    scales = np.empty((block_count(k, size), n), np.float32)
    zeros = np.empty_like(scales)

    def tile(left: int, right: int) -> None:
        grid_loops.min_max(weight, size, (left, right), (top_code(spec), spec.symmetric), (scales, zeros))

    over_columns(tile, n, threads=threads)
    return BlockGrid(scales, zeros)


def nearest_values(weight: F32, grid: BlockGrid, spec: BlockSpec, *, threads: int | None = None) -> F32:
    """What the nearest codes of ``weight`` stand for, float32 [K, N]."""
    from vqonnx.kernels.blocks import grid_loops

    values = np.empty_like(weight)
    form = (spec.size_for(weight.shape[0]), top_code(spec))

    def tile(left: int, right: int) -> None:
        grid_loops.nearest(weight, form, (left, right), (grid.scales, grid.zero_points), values)

    over_columns(tile, weight.shape[1], threads=threads)
    return values


def round_to_grid(weight: FloatArray, grid: BlockGrid, spec: BlockSpec) -> QuantizedBlocks:
    """The nearest codes of ``weight`` [K, N] on ``grid``, whose scales are rounded to the weight's type first."""
    stored = grid.rounded(weight.dtype)
    source = weight.astype(np.float32) if weight.dtype == np.float64 else weight
    return quantize_blocks(source, _by_channel(stored.scales), _stored_zero_points(stored, spec), spec)


def packed(codes: U8, grid: BlockGrid, spec: BlockSpec, dtype: npt.DTypeLike) -> QuantizedBlocks:
    """Chosen codes, uint8 [K, N], and their grid, for a weight of ``dtype``."""
    return pack_blocks(
        codes.T,
        _by_channel(grid.scales).astype(np.float32 if dtype == np.float64 else dtype),
        _stored_zero_points(grid, spec),
        bits=spec.bits,
        block_size=spec.size_for(codes.shape[0]),
    )


def _by_channel(parameter: F32) -> F32:
    return np.ascontiguousarray(parameter.T)


def _stored_zero_points(grid: BlockGrid, spec: BlockSpec) -> U8 | None:
    return None if spec.symmetric else _by_channel(grid.zero_points).astype(np.uint8)
