"""The real range of a tensor, chosen from its histogram.

Every function takes ``Bins`` and a spec and returns (low, high) with low <= 0 <= high, within what was observed (a
symmetric spec gives low = -high). An empty histogram gives (0, 0).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vqonnx.core.qtype import Kind
from vqonnx.core.spec import QuantSpec, RangeMethod
from vqonnx.errors import OptionError
from vqonnx.kernels.bins import Bins, Range, folded, with_zero
from vqonnx.kernels.entropy import least_entropy

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeOptions:
    """Options of the range methods.

    Attributes:
        percentile: Share of the elements, in percent, that the range of ``RangeMethod.PERCENTILE`` keeps.
    """

    percentile: float = 99.999

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise OptionError(
                f"percentile is the share of elements kept, in percent, and must lie in (50, 100], got "
                f"{self.percentile}; the usual values are 99.9 to 99.999",
                option="percentile",
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
    """The range of least expected squared error when elements are clipped to it and rounded to the codes of ``spec``.

    Clipped elements count with their squared distance to the range; the others with step^2 / 12, the error of
    rounding what is spread evenly; but elements within half a step of zero become exactly zero and count with their
    own square, which matters after a Relu, where most elements are zero. Inside a bin elements are spread evenly.

    Both ends are searched together, on a grid of 8 points an octave down to 1/256 of the observed ends, then on one
    of 128 points an octave around the best.
    """
    from vqonnx.kernels import searching

    low, high = min_max_range(bins, spec, options)
    edges = _edges(bins)
    sums, grid = _power_sums(bins.counts, edges), (bins.offset * bins.width, bins.width)
    ratios = (1.0, 1.0)
    for steps in (2.0 ** (-np.arange(65) / 8), 2.0 ** (np.arange(16, -17, -1) / 128)):
        lows, highs = (np.minimum(ratio * steps, 1.0) for ratio in ratios)
        if not spec.symmetric:  # every pair; a side on which there is nothing has one candidate
            lows, highs = (axis.ravel() for axis in np.meshgrid(lows[: lows.size if low else 1], highs))
        errors = searching.squared_errors(
            np.stack([low * lows, high * highs]), edges, sums, grid, spec.qmax - spec.qmin
        )
        best = int(np.argmin(errors))
        ratios = (float(lows[best]), float(highs[best]))
    return low * ratios[0], high * ratios[1]


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
    codes = np.arange(1 << spec.qtype.bits, dtype=np.uint8).view(spec.qtype.dtype).astype(np.float64)
    limit = deviation / float(np.std(codes[np.isfinite(codes)])) * spec.qtype.qmax
    return -limit, limit


def _edges(bins: Bins) -> F64:
    """[n + 1] ends of the bins; the outermost are where the elements end."""
    grid = (bins.offset + np.arange(bins.counts.size + 1)) * bins.width
    edges: F64 = np.clip(grid, bins.low, bins.high)
    return edges


def _quantile(bins: Bins, share: float) -> float:
    below = np.concatenate([[0], np.cumsum(bins.counts)])
    return float(np.interp(share * below[-1], below, _edges(bins)))


def _power_sums(counts: I64, edges: F64) -> F64:
    """[3, n + 1] integrals of 1, t and t^2 over the density below each edge."""
    left, right = edges[:-1], edges[1:]
    means = np.stack([np.ones_like(left), (left + right) / 2, (left * left + left * right + right * right) / 3])
    return np.concatenate([np.zeros((3, 1)), np.cumsum(means * counts, axis=1)], axis=1)


_METHODS: dict[RangeMethod, Callable[[Bins, QuantSpec, RangeOptions], Range]] = {
    RangeMethod.MIN_MAX: min_max_range,
    RangeMethod.PERCENTILE: percentile_range,
    RangeMethod.ENTROPY: entropy_range,
    RangeMethod.MSE: mse_range,
}

HISTOGRAM_METHODS = tuple(_METHODS)
"""The methods that choose from a histogram."""
