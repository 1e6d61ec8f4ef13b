"""Scale and zero point of a constant, with a range method of its own."""

import numpy as np
import numpy.typing as npt

from vqonnx.core.granularity import Array
from vqonnx.core.params import QuantParams
from vqonnx.core.spec import QuantSpec, RangeMethod, ScaleGrid
from vqonnx.kernels.affine import affine_params, block_ranges, rows
from vqonnx.kernels.bins import Bins, Range
from vqonnx.kernels.histogram import bin_exponent, bin_range, count_bins, min_max, moments
from vqonnx.kernels.positions import least_error_params
from vqonnx.kernels.ranges import RangeOptions, choose_range, distribution_range

_BINS = 2048


def constant_params(
    values: Array,
    spec: QuantSpec,
    method: RangeMethod = RangeMethod.MIN_MAX,
    options: RangeOptions = RangeOptions(),  # noqa: B008 - frozen
    dtype: npt.DTypeLike = np.float32,
) -> QuantParams:
    """Scale and zero point of each block of a constant.

    The range of ``MIN_MAX`` is all of a block; that of ``MSE`` on powers of two leaves the least squared error of all
    positions near the covering one, computed exactly; that of ``DISTRIBUTION`` follows from its deviation; other
    methods choose from a histogram of each block.

    Args:
        values: Any shape.
        spec: Type, symmetry, granularity and scale grid.
        method: How the ranges are chosen.
        options: Options of the method.
        dtype: Type of the scale.

    Raises:
        QuantRangeError: A value is NaN or infinite.
        OptionError: The method does not choose from a histogram.
    """
    ends = block_ranges(values, spec)
    if method is RangeMethod.MIN_MAX or values.size == 0:
        return affine_params(*ends, spec, dtype)
    if method is RangeMethod.MSE and spec.grid is ScaleGrid.POWER_OF_TWO:
        return least_error_params(values, spec, dtype)
    chosen = [_range(row, spec, method, options) for row in rows(values, spec.granularity)]
    low, high = (np.reshape(side, ends[0].shape) for side in zip(*chosen, strict=True))
    return affine_params(low, high, spec, dtype)


def _range(row: Array, spec: QuantSpec, method: RangeMethod, options: RangeOptions) -> Range:
    if method is RangeMethod.DISTRIBUTION:
        return distribution_range(moments(row), spec)
    return choose_range(method, histogram_of(row), spec, options)


def histogram_of(x: Array, bins: int = _BINS) -> Bins:
    """The histogram of a finite tensor, of any shape, in as many bins at most."""
    low, high, _ = min_max(x)
    if low > high:
        return Bins(np.zeros(0, np.int64), 0, 0, low, high)
    exponent = bin_exponent(min(low, 0.0), max(high, 0.0), bins)
    first, last = bin_range(low, high, exponent)
    counts = np.zeros(last - first + 1, np.int64)
    count_bins(x, exponent, first, counts)
    return Bins(counts, first, exponent, low, high)
