"""onnxruntime.quantization.calibrate over vqonnx's statistics."""

from vqonnx.compat.calibrate.base import CalibraterBase
from vqonnx.compat.calibrate.cache import (
    CacheOrigin,
    CalibrationCacheEncoder,
    MissingCacheError,
    load_origin,
    load_tensors_data,
    save_tensors_data,
)
from vqonnx.compat.calibrate.collector import CalibrationDataCollector, HistogramCollector
from vqonnx.compat.calibrate.create import create_calibrator
from vqonnx.compat.calibrate.data import TensorData, TensorsData
from vqonnx.compat.calibrate.entropy import entropy, rel_entr
from vqonnx.compat.calibrate.histogram import (
    DistributionCalibrater,
    EntropyCalibrater,
    HistogramCalibrater,
    PercentileCalibrater,
)
from vqonnx.compat.calibrate.min_max import MinMaxCalibrater
from vqonnx.compat.calibrate.reader import CalibrationDataReader
from vqonnx.quantizers.types import CalibrationMethod

__all__ = [
    "CacheOrigin",
    "CalibraterBase",
    "CalibrationCacheEncoder",
    "CalibrationDataCollector",
    "CalibrationDataReader",
    "CalibrationMethod",
    "DistributionCalibrater",
    "EntropyCalibrater",
    "HistogramCalibrater",
    "HistogramCollector",
    "MinMaxCalibrater",
    "MissingCacheError",
    "PercentileCalibrater",
    "TensorData",
    "TensorsData",
    "create_calibrator",
    "entropy",
    "load_origin",
    "load_tensors_data",
    "rel_entr",
    "save_tensors_data",
]
