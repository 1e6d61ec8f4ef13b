"""Ranges from histograms of fixed memory: percentiles, least relative entropy, distributions."""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import ClassVar

import onnx_ir as ir

from vqonnx.calibration.readers import Reader
from vqonnx.calibration.statistics.histogram import Histogram
from vqonnx.compat.calibrate.base import CalibraterBase
from vqonnx.compat.calibrate.collector import HistogramCollector, Method
from vqonnx.compat.calibrate.data import TensorsData
from vqonnx.errors import SampleError
from vqonnx.quantizers.types import CalibrationMethod


class HistogramCalibrater(CalibraterBase):
    """Ranges from histograms; see the subclasses.

    Attributes:
        collector: The histograms so far; None before ``collect_data``.
    """

    calibration_method: ClassVar[CalibrationMethod | None] = None

    def __init__(
        self,
        model_path: str | Path,
        op_types_to_calibrate: Sequence[str] | None = None,
        augmented_model_path: str | PathLike[str] = "augmented_model.onnx",
        use_external_data_format: bool = False,
        method: Method = "percentile",
        symmetric: bool = False,
        num_bins: int = 128,
        num_quantized_bins: int = 2048,
        percentile: float = 99.999,
        scenario: str = "same",
    ) -> None:
        super().__init__(
            model_path,
            op_types_to_calibrate=op_types_to_calibrate,
            augmented_model_path=augmented_model_path,
            symmetric=symmetric,
            use_external_data_format=use_external_data_format,
        )
        self.method: Method = method
        self.num_bins = num_bins
        self.num_quantized_bins = num_quantized_bins
        self.percentile = percentile
        self.scenario = scenario
        self.collector: HistogramCollector | None = None

    def collect_data(self, data_reader: Reader) -> None:
        """See ``CalibraterBase``."""
        collector = self.collector or HistogramCollector(
            method=self.method,
            symmetric=self.symmetric,
            num_bins=self.num_bins,
            num_quantized_bins=self.num_quantized_bins,
            percentile=self.percentile,
            scenario=self.scenario,
            dtypes=self._dtypes(),
        )
        for found in self._observed(data_reader, collector.empty):
            for name, statistic in found.items():
                assert isinstance(statistic, Histogram)
                collector.add(name, statistic)
        self.collector = collector

    def compute_data(self) -> TensorsData:
        """The ranges of all samples so far.

        Raises:
            SampleError: Nothing was collected.
            TypeError: A subclass names no ``calibration_method``.
        """
        if self.collector is None:
            raise SampleError("no data is collected; call collect_data first")
        if self.calibration_method is None:
            raise TypeError(f"{type(self).__name__} must set calibration_method, or override compute_data")
        return TensorsData(self.calibration_method, self.collector.compute_collection_result())

    def _augment(self, model: ir.Model, tensors: Sequence[ir.Value]) -> None:
        model.graph.outputs.extend(value for value in tensors if not value.is_graph_output())


class EntropyCalibrater(HistogramCalibrater):
    """The range whose quantized distribution is nearest to the observed one (Kullback-Leibler; ``kernels/entropy.py``).

    onnxruntime compares one range, the widest, as long as there are no more bins than codes, which its defaults are.
    Here there are always 16 bins for each code; more where ``num_bins`` says so.
    """

    calibration_method = CalibrationMethod.Entropy

    def __init__(
        self,
        model_path: str | Path,
        op_types_to_calibrate: Sequence[str] | None = None,
        augmented_model_path: str | PathLike[str] = "augmented_model.onnx",
        use_external_data_format: bool = False,
        method: Method = "entropy",
        symmetric: bool = False,
        num_bins: int = 128,
        num_quantized_bins: int = 128,
    ) -> None:
        super().__init__(
            model_path,
            op_types_to_calibrate,
            augmented_model_path,
            use_external_data_format,
            method=method,
            symmetric=symmetric,
            num_bins=num_bins,
            num_quantized_bins=num_quantized_bins,
        )


class PercentileCalibrater(HistogramCalibrater):
    """The range that keeps ``percentile`` percent of the elements: of the magnitudes, or cutting half at each end."""

    calibration_method = CalibrationMethod.Percentile

    def __init__(
        self,
        model_path: str | Path,
        op_types_to_calibrate: Sequence[str] | None = None,
        augmented_model_path: str | PathLike[str] = "augmented_model.onnx",
        use_external_data_format: bool = False,
        method: Method = "percentile",
        symmetric: bool = False,
        num_bins: int = 2048,
        percentile: float = 99.999,
    ) -> None:
        super().__init__(
            model_path,
            op_types_to_calibrate,
            augmented_model_path,
            use_external_data_format,
            method=method,
            symmetric=symmetric,
            num_bins=num_bins,
            percentile=percentile,
        )


class DistributionCalibrater(HistogramCalibrater):
    """Mean and standard deviation, for float8: codes spread as the elements do."""

    calibration_method = CalibrationMethod.Distribution

    def __init__(
        self,
        model_path: str | Path,
        op_types_to_calibrate: Sequence[str] | None = None,
        augmented_model_path: str | PathLike[str] = "augmented_model.onnx",
        use_external_data_format: bool = False,
        method: Method = "distribution",
        num_bins: int = 128,
        scenario: str = "same",
    ) -> None:
        super().__init__(
            model_path,
            op_types_to_calibrate,
            augmented_model_path,
            use_external_data_format,
            method=method,
            num_bins=num_bins,
            scenario=scenario,
        )
