"""The real range of a tensor, chosen from its histogram.

Every function takes ``Bins`` and a spec and returns (low, high) with low <= 0 <= high, within what was observed (a
symmetric spec gives low = -high; least squared error on powers of two gives the ends of all codes, which may reach
beyond). An empty histogram gives (0, 0).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from vqonnx.core.qtype import Kind
from vqonnx.core.spec import QuantSpec, RangeMethod, ScaleGrid
from vqonnx.errors import OptionError
from vqonnx.kernels import positions
from vqonnx.kernels.affine import affine_params
from vqonnx.kernels.bins import Bins, Range, clipped, edges, folded, with_zero
from vqonnx.kernels.entropy import least_entropy
from vqonnx.kernels.expected_error import expected_errors
from vqonnx.kernels.fidelity import quantization_error


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeOptions:
    """Options of the range methods.

    Attributes:
        percentile: Share of the elements, in percent, that the range of ``RangeMethod.PERCENTILE`` keeps, and to
            which ``RangeMethod.PERCENTILE_MSE`` clips.
        percentiles: Those that ``RangeMethod.LAYERWISE_PERCENTILE`` tries.
        squared: Whether that method compares squared errors, not absolute ones.
    """

    percentile: float = 99.999
    percentiles: tuple[float, ...] = (99.99, 99.999, 99.99999)
    squared: bool = False

    def __post_init__(self) -> None:
        if not self.percentiles:
            raise OptionError("percentiles must name at least one candidate", option="percentiles")
        for option, value in (("percentile", self.percentile), *(("percentiles", one) for one in self.percentiles)):
            if not 50 < value <= 100:
                raise OptionError(
                    f"{option} is the share of elements kept, in percent, and must lie in (50, 100], got "
                    f"{value}; the usual values are 99.9 to 99.999",
                    option=option,
                )


def choose_range(method: RangeMethod, bins: Bins, spec: QuantSpec, options: RangeOptions) -> Range:
    """The range that ``method`` chooses.

    Raises:
        OptionError: The method does not choose from a histogram.
    """
    if method not in _METHODS:
        raise OptionError(
            f"range method {method.value!r} does not choose from a histogram; these do: "
            f"{', '.join(known.value for known in _METHODS)}",
            option="method",
        )
    if bins.counts.size == 0:
        return 0.0, 0.0
    return _METHODS[method](bins, spec, options)


def min_max_range(bins: Bins, spec: QuantSpec, options: RangeOptions) -> Range:
    """All that was observed."""
    return with_zero(bins.low, bins.high, symmetric=spec.symmetric)


def percentile_range(bins: Bins, spec: QuantSpec, options: RangeOptions) -> Range:
    """The range that keeps ``options.percentile`` percent: half of the rest is cut off at each end.

    A symmetric spec cuts the whole rest off the magnitudes. Inside a bin the elements count as evenly spread.
    """
    share = 1 - options.percentile / 100
    if spec.symmetric:
        limit = _quantile(folded(bins), 1 - share)
        return -limit, limit
    return with_zero(_quantile(bins, share / 2), _quantile(bins, 1 - share / 2), symmetric=False)


def mse_range(bins: Bins, spec: QuantSpec, options: RangeOptions) -> Range:
    """The range of least expected squared error (see ``expected_error.py``); on powers of two ``positions.mse_range``.

    Both ends are searched together, on a grid of 8 points an octave down to 1/256 of the observed ends, then on one
    of 128 points an octave around the best.
    """
    if spec.grid is ScaleGrid.POWER_OF_TWO:
        return positions.mse_range(bins, spec)
    low, high = min_max_range(bins, spec, options)
    ratios = (1.0, 1.0)
    for steps in (2.0 ** (-np.arange(65) / 8), 2.0 ** (np.arange(16, -17, -1) / 128)):
        lows, highs = (np.minimum(ratio * steps, 1.0) for ratio in ratios)
        if not spec.symmetric:  # every pair; a side on which there is nothing has one candidate
            lows, highs = (axis.ravel() for axis in np.meshgrid(lows[: lows.size if low else 1], highs))
        errors = expected_errors(bins, np.stack([low * lows, high * highs]), spec.qmax - spec.qmin)
        best = int(np.argmin(errors))
        ratios = (float(lows[best]), float(highs[best]))
    return low * ratios[0], high * ratios[1]


def percentile_mse_range(bins: Bins, spec: QuantSpec, options: RangeOptions) -> Range:
    """The range of least expected squared error of the elements clipped to ``percentile_range``."""
    return mse_range(clipped(bins, percentile_range(bins, spec, options)), spec, options)


def layerwise_percentile_range(bins: Bins, spec: QuantSpec, options: RangeOptions) -> Range:
    """Of the ranges of ``options.percentiles`` that of the least error in this tensor; the widest of equals.

    The error is that of quantizing with the type, symmetry and grid of ``spec``: absolute or squared, as
    ``options.squared`` says.
    """

    def error(ends: Range) -> float:
        return quantization_error(bins, affine_params(ends[0], ends[1], spec), 2 if options.squared else 1)

    widest_first = sorted(options.percentiles, reverse=True)
    return min((percentile_range(bins, spec, replace(options, percentile=one)) for one in widest_first), key=error)


def entropy_range(bins: Bins, spec: QuantSpec, options: RangeOptions) -> Range:
    """The range whose quantized distribution is nearest to the observed one in relative entropy; see ``entropy.py``.

    A symmetric spec compares magnitudes.
    """
    codes = spec.qmax - spec.qmin + 1
    if not spec.symmetric:
        return least_entropy(bins, codes)
    limit = least_entropy(folded(bins), (codes + 1) // 2)[1]
    return -limit, limit


def distribution_range(moments: tuple[int, float, float], spec: QuantSpec) -> Range:
    """The range that gives a float type the scale std(x) / std(all its finite codes).

    Small floats are densest near zero, so their codes should spread as the elements do.

    Args:
        moments: Number, sum and sum of squares of the elements.
        spec: Its type is a float type.

    Raises:
        OptionError: The type is an integer type.
    """
    if spec.qtype.kind is not Kind.FLOAT:
        raise OptionError(
            f"range method 'distribution' fits the codes of float types, not {spec.qtype.name}; choose another "
            "method (minmax, percentile, mse) or a float8 type",
            option="method",
        )
    count, total, squares = moments
    if count == 0:
        return 0.0, 0.0
    deviation = math.sqrt(max(0.0, squares / count - (total / count) ** 2))
    patterns = np.arange(1 << spec.qtype.bits, dtype=f"u{spec.qtype.dtype.itemsize}")
    codes = patterns.view(spec.qtype.dtype).astype(np.float64)
    limit = deviation / float(np.std(codes[np.isfinite(codes)])) * spec.qtype.qmax
    return -limit, limit


def _quantile(bins: Bins, share: float) -> float:
    below = np.concatenate([[0], np.cumsum(bins.counts)])
    return float(np.interp(share * below[-1], below, edges(bins)))


_METHODS: dict[RangeMethod, Callable[[Bins, QuantSpec, RangeOptions], Range]] = {
    RangeMethod.MIN_MAX: min_max_range,
    RangeMethod.PERCENTILE: percentile_range,
    RangeMethod.ENTROPY: entropy_range,
    RangeMethod.MSE: mse_range,
    RangeMethod.PERCENTILE_MSE: percentile_mse_range,
    RangeMethod.LAYERWISE_PERCENTILE: layerwise_percentile_range,
}

HISTOGRAM_METHODS = tuple(_METHODS)
"""The methods that choose from a histogram."""
