"""The power-of-two scale of least squared error: from a histogram, or exactly from the elements of a constant.

AMD's tools call it MinMSE. They try five exponents from the nearest to the range's own on; here it is the covering one,
the next four finer ones, and the next coarser one, which hold all of theirs. An asymmetric zero point is searched too.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vqonnx.core.granularity import Array
from vqonnx.core.params import QuantParams
from vqonnx.core.spec import QuantSpec
from vqonnx.kernels.affine import affine_params, block_ranges, rows
from vqonnx.kernels.bins import Bins, Range, with_zero
from vqonnx.kernels.expected_error import expected_errors, power_sums
from vqonnx.kernels.scale_grid import LARGEST_POSITION, at_position, covering_position, position_of, scale_at

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

CANDIDATES = (0, 1, 2, 3, 4, -1)
"""Positions that are tried, counted from the one that covers the range; of equal errors the first wins."""

_ZERO_POINTS = 257
"""Zero points that are tried at a position: all of an 8-bit type, evenly spread ones of a wider type."""


def mse_range(bins: Bins, spec: QuantSpec) -> Range:
    """The real range of all codes at the position of least expected squared error; zeros alone have (0, 0).

    Args:
        bins: A histogram that is not empty.
        spec: Type and symmetry.
    """
    found = best_position(bins, spec)
    return (0.0, 0.0) if found is None else range_at(spec, *found)


def best_position(bins: Bins, spec: QuantSpec) -> tuple[int, int] | None:
    """Position and zero point of least expected squared error; None where every element is zero."""
    low, high = with_zero(bins.low, bins.high, symmetric=spec.symmetric)
    if low == high:
        return None
    covering = int(covering_position((high - low) / (spec.qmax - spec.qmin)))
    candidates = [min(covering + step, LARGEST_POSITION) for step in CANDIDATES]
    (_, zero), position = min(
        ((_least_error(bins, spec, position), position) for position in candidates), key=lambda one: one[0][0]
    )
    return position, zero


def range_at(spec: QuantSpec, position: int, zero_point: int) -> Range:
    """The range from which ``affine_params`` makes the scale 2^-position and the zero point.

    Args:
        spec: Type and symmetry; a symmetric one has its own zero point.
        position: -log2 of the scale.
        zero_point: Of an asymmetric spec.
    """
    scale = float(scale_at(position))
    if spec.symmetric:
        limit = (spec.qmax - spec.qmin) / 2 * scale
        return -limit, limit
    return (spec.qmin - zero_point) * scale, (spec.qmax - zero_point) * scale


def position_errors(bins: Bins, spec: QuantSpec, positions: Sequence[int]) -> F64:
    """Sum of squared errors to expect at each position, with its best zero point, [n]; 0 for an empty histogram."""
    if bins.counts.size == 0:
        return np.zeros(len(positions))
    return np.array([_least_error(bins, spec, position)[0] for position in positions])


def noise_share(bins: Bins, spec: QuantSpec, position: int) -> float:
    """The error to expect at a position as a share of the elements' energy; 0 where there is none."""
    energy = float(power_sums(bins)[2, -1]) if bins.counts.size else 0.0
    return float(position_errors(bins, spec, (position,))[0]) / energy if energy else 0.0


def mean_square(bins: Bins) -> float:
    """Of the elements; 0 for an empty histogram."""
    return float(power_sums(bins)[2, -1]) / float(bins.counts.sum()) if bins.counts.size else 0.0


def zero_points(ends: Range, spec: QuantSpec, position: int) -> I64:
    """Zero points worth trying: from the one that keeps the lower end to that of the upper end, the middle first.

    A range that begins or ends at zero has one, so that it clips there like a Relu.

    Args:
        ends: What was observed.
        spec: A symmetric one has one zero point.
        position: -log2 of the scale.
    """
    if spec.symmetric:
        return np.array([0 if spec.qtype.signed else (spec.qmin + spec.qmax + 1) // 2])
    low, high = with_zero(*ends, symmetric=False)
    if low == 0 or high == 0:
        return np.array([spec.qmin if low == 0 else spec.qmax])
    scale = float(scale_at(position))
    first, last = (min(max(end, spec.qmin), spec.qmax) for end in (spec.qmin - low / scale, spec.qmax - high / scale))
    zeros = np.unique(np.rint(np.linspace(first, last, _ZERO_POINTS)).astype(np.int64))
    return zeros[np.argsort(np.abs(zeros - (first + last) / 2), kind="stable")]


def _least_error(bins: Bins, spec: QuantSpec, position: int) -> tuple[float, int]:
    """The least error at a position, and its zero point."""
    scale = float(scale_at(position))
    zeros = zero_points((bins.low, bins.high), spec, position)
    ends = np.stack([(spec.qmin - zeros) * scale, (spec.qmax - zeros) * scale])
    errors = expected_errors(bins, ends, spec.qmax - spec.qmin)
    best = int(np.argmin(errors))
    return float(errors[best]), int(zeros[best])


def least_error_params(values: Array, spec: QuantSpec, dtype: npt.DTypeLike = np.float32) -> QuantParams:
    """Scale and zero point of each block of a constant at its position of least squared error, computed exactly.

    Args:
        values: Any shape.
        spec: Of any granularity; its scales are powers of two.
        dtype: Type of the scale.

    Raises:
        QuantRangeError: A value is NaN or infinite.
    """
    covering = affine_params(*block_ranges(values, spec), spec, dtype)
    if values.size == 0:
        return covering
    position = position_of(covering.scale)
    errors = [squared_errors(values, at_position(covering, position + step)) for step in CANDIDATES]
    return at_position(covering, position + np.asarray(CANDIDATES)[np.argmin(errors, axis=0)])


def squared_errors(values: Array, params: QuantParams) -> F64:
    """Sum of the squared errors of rounding and clipping, of each block, in the shape of the scale."""
    from vqonnx.kernels import searching

    return searching.rounding_errors(
        np.ascontiguousarray(rows(values, params.spec.granularity), np.float32),
        params.scale.astype(np.float64).reshape(-1),
        params.zero_point.astype(np.float64).reshape(-1),
        (float(params.spec.qmin), float(params.spec.qmax)),
    ).reshape(params.scale.shape)
