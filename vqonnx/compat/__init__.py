"""Other tools' module names, functions and defaults over this package's own code.

A program that uses onnxruntime.quantization works with ``vqonnx.compat`` in its place, submodules included. Its names
are imported at once, since ``quantize`` is a module and a function, as there.
"""

from vqonnx.compat.calibrate import (
    CalibraterBase,
    CalibrationDataReader,
    CalibrationMethod,
    MinMaxCalibrater,
    TensorData,
    TensorsData,
    create_calibrator,
    load_tensors_data,
    save_tensors_data,
)
from vqonnx.compat.calibration_table import write_calibration_table
from vqonnx.compat.configs import DynamicQuantConfig, QuantConfig, StaticQuantConfig, get_int_qdq_config, get_qdq_config
from vqonnx.compat.qdq_quantizer import QDQQuantizer
from vqonnx.compat.quantize import quantize, quantize_dynamic, quantize_static
from vqonnx.compat.shape_inference import quant_pre_process
from vqonnx.quantizers.types import QuantFormat, QuantizationMode, QuantType

__all__ = [
    "CalibraterBase",
    "CalibrationDataReader",
    "CalibrationMethod",
    "DynamicQuantConfig",
    "MinMaxCalibrater",
    "QDQQuantizer",
    "QuantConfig",
    "QuantFormat",
    "QuantType",
    "QuantizationMode",
    "StaticQuantConfig",
    "TensorData",
    "TensorsData",
    "create_calibrator",
    "get_int_qdq_config",
    "get_qdq_config",
    "load_tensors_data",
    "quant_pre_process",
    "quantize",
    "quantize_dynamic",
    "quantize_static",
    "save_tensors_data",
    "write_calibration_table",
]
