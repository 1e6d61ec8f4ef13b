"""How far a packed weight is from the weight itself: in the weight, and in the layer's output.

The squared output error of V in place of W [K, N], summed over all inputs x seen, is ``tr((W - V)^T H (W - V))`` with
H = sum x x^T. It is computed as ``|L^T (W - V)|^2`` with L L^T = H: a sum of squares, whose rounding in single
precision is harmless also where the error lies in directions in which the inputs hardly move (as GPTQ's does), which
the product with H is not. L is triangular, so it takes half the products too.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from vqonnx.core.blocks import CodebookBlocks, FloatArray, PackedWeight, QuantizedBlocks
from vqonnx.kernels.blas import one_blas_thread, over_columns
from vqonnx.kernels.blocks.cholesky import cholesky
from vqonnx.kernels.blocks.codebook import book_columns
from vqonnx.kernels.blocks.packing import unpack_zero_points
from vqonnx.kernels.blocks.rounding import patterns_of, readable
from vqonnx.kernels.parallel import in_parallel

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
U32 = npt.NDArray[np.uint32]

_PANEL = 128  # columns of L that are multiplied at a time
_TILE = 256  # columns of a weight
_TOLERANCE = 1e-6  # more than sums in single precision are off; 1e-7 leaves ten times as much of their rounding


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """What may stand in place of a weight.

    Attributes:
        packed: A packed weight.
        channel_scales: t [K] where that is diag(t) times what stands for the weight, and the inputs are divided by t.
    """

    packed: PackedWeight
    channel_scales: F32 | None = None


@dataclass(frozen=True, eq=False)  # without slots, which cached properties do not go with
class SecondMoment:
    """H = sum (or mean) of x x^T over the inputs x of layers, float64 [K, K], and what is computed from it once."""

    matrix: F64

    @property
    def energy(self) -> F64:
        """Mean squares of the inputs, up to a factor, [K]."""
        return np.diagonal(self.matrix)

    @cached_property
    def root(self) -> F32:
        """The lower triangular L [K, K] with L L^T = H, which may be singular."""
        return cholesky(self.matrix, _TOLERANCE)[0].astype(np.float32)

    def output_error(self, change: F32, *, threads: int | None = None) -> float:
        """Squared output error of a change E [K, C] of the weight: tr(E^T H E).

        Args:
            change: E.
            threads: Threads to use, one a processor if None; the result does not depend on it.
        """
        sums, root = np.zeros(-(-change.shape[1] // _TILE)), self.root

        def tile(left: int, right: int) -> None:
            sums[left // _TILE] = _norm_of_tile(root, change[:, left:right])

        with one_blas_thread():
            over_columns(tile, change.shape[1], tile=_TILE, threads=threads)
        return float(sums.sum())


def weight_errors(weight: FloatArray, packed: PackedWeight, *, threads: int | None = None) -> tuple[float, float]:
    """Sum of squares of ``weight`` [K, N], and of its difference from what ``packed`` stands for.

    Args:
        weight: float32, float16 or bfloat16 (others are taken as float32), read where it lies.
        packed: Its packed form.
        threads: Threads to use, one a processor if None; the result does not depend on it.
    """
    if isinstance(packed, CodebookBlocks):
        return _book_errors(weight, packed, threads)
    from vqonnx.kernels.blocks import error_loops
    from vqonnx.kernels.blocks import loops as block_loops

    (k, n), form = weight.shape, (packed.bits, packed.block_size)
    source, arrays = patterns_of(readable(weight)), _read_by_loops(packed)
    sums = np.zeros((block_loops.task_count(k, n, packed.block_size), 2))

    def work(start: int, stop: int) -> None:
        error_loops.squared_errors(source, arrays, form, (start, stop), sums)

    in_parallel(work, len(sums), threads=threads)
    whole, missed = sums.sum(axis=0)
    return float(whole), float(missed)


def _book_errors(weight: FloatArray, packed: CodebookBlocks, threads: int | None) -> tuple[float, float]:
    sums = np.zeros((-(-weight.shape[1] // _TILE), 2))

    def tile(left: int, right: int) -> None:
        some = weight[:, left:right].astype(np.float32)
        missed = some - book_columns(packed, left, right)
        sums[left // _TILE] = [np.square(part).sum(dtype=np.float64) for part in (some, missed)]

    over_columns(tile, weight.shape[1], tile=_TILE, threads=threads)
    whole, missed = sums.sum(axis=0)
    return float(whole), float(missed)


def output_norms(weight: FloatArray, moments: Sequence[SecondMoment], *, threads: int | None = None) -> F64:
    """Squared norm of a layer's output, tr(W^T H W), for each set of inputs; arguments as for ``output_errors``."""
    return _sums(weight, [lambda columns, left: columns], moments, threads)[:, 0]


def output_errors(
    weight: FloatArray, candidates: Sequence[Candidate], moments: Sequence[SecondMoment], *, threads: int | None = None
) -> F64:
    """Squared error of a layer's output with each candidate in place of the weight.

    Args:
        weight: [K, N], float32, float16 or bfloat16 (others are taken as float32).
        candidates: What may stand in its place.
        moments: H [K, K] of each set of inputs.
        threads: Threads to use, one a processor if None; the result does not depend on it.

    Returns:
        [moments, candidates].
    """
    return _sums(weight, [_difference(candidate) for candidate in candidates], moments, threads)


def _sums(
    weight: FloatArray,
    differences: Sequence[Callable[[F32, int], F32]],
    moments: Sequence[SecondMoment],
    threads: int | None,
) -> F64:
    roots = [moment.root for moment in moments]
    sums = np.zeros((-(-weight.shape[1] // _TILE), len(roots), len(differences)))

    def tile(left: int, right: int) -> None:
        some = np.ascontiguousarray(weight[:, left:right], np.float32)
        for column, difference in enumerate(differences):
            missed = difference(some, left)
            sums[left // _TILE, :, column] = [_norm_of_tile(root, missed) for root in roots]

    with one_blas_thread():
        over_columns(tile, weight.shape[1], tile=_TILE, threads=threads)
    total: F64 = sums.sum(axis=0)
    return total


def _norm_of_tile(root: F32, columns: F32) -> float:
    """|L^T E|^2 for E [K, C]."""
    total = 0.0
    for first in range(0, len(root), _PANEL):
        product = root[first:, first : first + _PANEL].T @ columns[first:]
        total += float(np.square(product, out=product).sum(dtype=np.float64))
    return total


def _difference(candidate: Candidate) -> Callable[[F32, int], F32]:
    """From columns of the weight and the first one's number to what the candidate misses of them."""
    decode = subtraction(candidate.packed)
    if candidate.channel_scales is None:
        return decode
    scales = candidate.channel_scales[:, None]
    return lambda columns, left: decode(columns * scales, left) / scales


def subtraction(packed: PackedWeight) -> Callable[[F32, int], F32]:
    """From columns [K, C] and the number of the first to what is left of them without the packed weight's."""
    if isinstance(packed, CodebookBlocks):
        return lambda columns, left: columns - book_columns(packed, left, left + columns.shape[1])
    from vqonnx.kernels.blocks import error_loops

    arrays, form = _read_by_loops(packed), (packed.bits, packed.block_size)

    def subtract(columns: F32, left: int) -> F32:
        missed = columns.copy()
        error_loops.take_out(missed, arrays, form, left)
        return missed

    return subtract


def _read_by_loops(packed: QuantizedBlocks) -> tuple[U32, F32, F32]:
    """Codes in words, scales and zero points, as the loops read them; read-only, as a map of a file is."""
    codes = packed.codes
    left_over = -codes.shape[2] % 4
    if left_over:
        codes = np.pad(codes, ((0, 0), (0, 0), (0, left_over)))
    words = np.ascontiguousarray(codes).view("<u4")
    arrays = (words, packed.scales.astype(np.float32), unpack_zero_points(packed).astype(np.float32))
    for array in arrays:
        array.flags.writeable = False
    return arrays
