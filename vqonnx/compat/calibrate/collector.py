"""Histograms of tensors, of fixed memory, and the ranges chosen from them."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from vqonnx.calibration.statistics.histogram import Histogram
from vqonnx.compat.calibrate.data import TensorData
from vqonnx.core.qtype import INT8
from vqonnx.core.spec import QuantSpec
from vqonnx.errors import OptionError, SampleError, nearest
from vqonnx.kernels.bins import Range, edges, folded
from vqonnx.kernels.entropy import least_entropy
from vqonnx.kernels.ranges import RangeOptions, percentile_range

Method = Literal["percentile", "entropy", "distribution"]

_BINS_A_CODE = 16
"""Least bins of a histogram for each code that entropy tries to place: with one, all ranges look alike."""
_LEAST_OF_A_DISTRIBUTION = 512
_POWERS = {"same": 1.0, "p3": 1 / 3}


class CalibrationDataCollector(abc.ABC):
    """Takes arrays of tensors, and chooses ranges."""

    @abc.abstractmethod
    def collect(self, name_to_arr: Mapping[str, Any]) -> None:
        """Add the arrays of each tensor."""

    @abc.abstractmethod
    def compute_collection_result(self) -> Mapping[str, Any]:
        """What was chosen, by tensor name."""


@dataclass
class HistogramCollector(CalibrationDataCollector):
    """Histograms of tensors, and the ranges chosen from them.

    Attributes:
        method: How.
        symmetric: Whether magnitudes are looked at, and ranges are centred on zero.
        num_bins: Most bins of a histogram.
        num_quantized_bins: Codes that entropy spreads over a range.
        percentile: Percent of the elements that a percentile's range keeps.
        scenario: Which power of the elements a distribution is of: "same" the first, "p3" the third root.
        statistics: The histograms, by tensor name.
        dtypes: Types of the tensors, for their ranges; float32 where it is not known.
    """

    method: Method
    symmetric: bool
    num_bins: int
    num_quantized_bins: int
    percentile: float
    scenario: str
    statistics: dict[str, Histogram] = field(default_factory=dict, kw_only=True)
    dtypes: dict[str, np.dtype[np.generic]] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        if self.method not in _CHOOSE:
            raise OptionError(
                f"method {self.method!r} is not known{nearest(self.method, _CHOOSE)}; these are: {', '.join(_CHOOSE)}",
                option="method",
            )
        if self.scenario not in _POWERS:
            raise OptionError(f"scenario {self.scenario!r} is none of {', '.join(_POWERS)}", option="scenario")
        if self.method == "distribution" and self.num_bins < _LEAST_OF_A_DISTRIBUTION:
            raise OptionError(
                f"a distribution needs num_bins of at least {_LEAST_OF_A_DISTRIBUTION}, got {self.num_bins}",
                option="num_bins",
            )
        if self.num_bins < 1 or self.num_quantized_bins < 2:
            raise OptionError(
                f"num_bins must be at least 1 and num_quantized_bins at least 2, got {self.num_bins} and "
                f"{self.num_quantized_bins}",
                option="num_bins",
            )

    @property
    def empty(self) -> Histogram:
        """The histogram of nothing; entropy gets several bins for each of its codes, whatever ``num_bins`` says."""
        least = _BINS_A_CODE * self.num_quantized_bins if self.method == "entropy" else 2
        return Histogram(bins=max(self.num_bins, least))

    def collect(self, name_to_arr: Mapping[str, np.ndarray | Sequence[np.ndarray]]) -> None:
        """Add arrays, one or several of any shapes for each tensor."""
        for name, given in name_to_arr.items():
            for array in [given] if isinstance(given, np.ndarray) else given:
                self.dtypes.setdefault(name, array.dtype)
                self.add(name, self.empty.of(array))

    def add(self, name: str, histogram: Histogram) -> None:
        """Add what was measured of further samples."""
        self.statistics[name] = self.statistics.get(name, self.empty).merge(histogram)

    def get_histogram_dict(self) -> dict[str, tuple[np.ndarray, np.ndarray, float, float]]:
        """Counts, [n + 1] ends of the bins, smallest and largest element of each tensor."""
        return {name: (one.counts, edges(one.as_bins()), one.low, one.high) for name, one in self.statistics.items()}

    def compute_collection_result(self) -> dict[str, TensorData]:
        """The range of each tensor with its histogram; (0, 0) for one that was empty in every sample.

        Raises:
            SampleError: Nothing was collected.
            OptionError: ``percentile`` is no share of more than half.
        """
        if not self.statistics:
            raise SampleError("no histogram has been collected; call collect_data first")
        return {
            name: self._data(one, self.dtypes.get(name, np.dtype(np.float32))) for name, one in self.statistics.items()
        }

    def _data(self, histogram: Histogram, dtype: np.dtype[np.generic]) -> TensorData:
        if histogram.is_empty:
            zero = dtype.type(0)
            nothing = {"avg": zero, "std": zero} if self.method == "distribution" else {}
            return TensorData(lowest=zero, highest=zero, **nothing)
        ends = edges(histogram.as_bins()).astype(dtype)
        if self.method == "distribution":
            average, deviation = _moments(histogram, _POWERS[self.scenario])
            return TensorData(
                avg=np.asarray(average, dtype),
                std=np.asarray(deviation, dtype),
                hist=histogram.counts,
                hist_edges=ends,
                lowest=ends[0],
                highest=ends[-1],
            )
        low, high = _CHOOSE[self.method](self, histogram)
        # A range reaches no further than what was seen, symmetric ones included.
        low, high = max(low, histogram.low), min(high, histogram.high)
        return TensorData(
            lowest=np.asarray(low, dtype), highest=np.asarray(high, dtype), hist=histogram.counts, bins=ends
        )


def _by_percentile(collector: HistogramCollector, histogram: Histogram) -> Range:
    spec = QuantSpec(qtype=INT8, symmetric=collector.symmetric)
    return percentile_range(histogram.as_bins(), spec, RangeOptions(percentile=collector.percentile))


def _by_entropy(collector: HistogramCollector, histogram: Histogram) -> Range:
    bins, codes = histogram.as_bins(), collector.num_quantized_bins
    if not collector.symmetric:
        return least_entropy(bins, codes)
    limit = least_entropy(folded(bins), (codes + 1) // 2)[1]
    return -limit, limit


def _ends(collector: HistogramCollector, histogram: Histogram) -> Range:
    return histogram.low, histogram.high


_CHOOSE = {"percentile": _by_percentile, "entropy": _by_entropy, "distribution": _ends}


def _moments(histogram: Histogram, power: float) -> Range:
    """Mean and standard deviation of the elements' signed power, each taken for the middle of its bin."""
    ends = edges(histogram.as_bins())
    middles = (ends[1:] + ends[:-1]) / 2
    values = np.sign(middles) * np.abs(middles) ** power
    share = histogram.counts / histogram.counts.sum()
    average = float(share @ values)
    return average, float(np.sqrt(share @ (values - average) ** 2))
