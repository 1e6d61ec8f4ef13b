"""vqonnx: a post-training quantizer for ONNX models.

The names are imported when they are first used, so that ``import vqonnx`` is quick.
"""

import importlib
from typing import TYPE_CHECKING

from vqonnx.version import __version__

if TYPE_CHECKING:
    from vqonnx.api.convert import Conversion, convert_weights
    from vqonnx.api.dynamic import quantize_dynamic
    from vqonnx.api.static import plan, quantize_static
    from vqonnx.api.weights import quantize_weight_only
    from vqonnx.compat import quantize
    from vqonnx.compat.calibrate import (
        CalibraterBase,
        CalibrationDataReader,
        MinMaxCalibrater,
        TensorData,
        TensorsData,
        create_calibrator,
        load_tensors_data,
        save_tensors_data,
    )
    from vqonnx.compat.calibration_table import write_calibration_table
    from vqonnx.compat.configs import DynamicQuantConfig, StaticQuantConfig, get_int_qdq_config, get_qdq_config
    from vqonnx.compat.matmul_nbits_quantizer import (
        AWQWeightOnlyQuantConfig,
        DefaultWeightOnlyQuantConfig,
        GPTQWeightOnlyQuantConfig,
        HQQWeightOnlyQuantConfig,
        KQuantWeightOnlyQuantConfig,
        MatMulNBitsQuantizer,
        NVAWQWeightOnlyQuantConfig,
        RTNWeightOnlyQuantConfig,
        WeightOnlyQuantConfig,
    )
    from vqonnx.compat.shape_inference import quant_pre_process
    from vqonnx.core.plan import Plan
    from vqonnx.core.spec import QuantSpec
    from vqonnx.core.target import Kernel, OpSupport, Target
    from vqonnx.errors import VqonnxError
    from vqonnx.quantizers.base import BaseQuantizer
    from vqonnx.quantizers.onnx_quantizer import ONNXQuantizer
    from vqonnx.quantizers.qdq_quantizer import QDQQuantizer
    from vqonnx.quantizers.tensors import QuantizedValue
    from vqonnx.quantizers.types import (
        CalibrationMethod,
        PowerOfTwoMethod,
        QuantFormat,
        QuantizationMode,
        QuantType,
        VitisQuantFormat,
    )
    from vqonnx.quantizers.vitis import VitisFixNeuronQuantizer, VitisONNXQuantizer, VitisQDQQuantizer
    from vqonnx.report.model import Report

_HOMES = {
    "AWQWeightOnlyQuantConfig": "vqonnx.compat.matmul_nbits_quantizer",
    "BaseQuantizer": "vqonnx.quantizers.base",
    "CalibraterBase": "vqonnx.compat.calibrate",
    "CalibrationDataReader": "vqonnx.compat.calibrate",
    "CalibrationMethod": "vqonnx.quantizers.types",
    "Conversion": "vqonnx.api.convert",
    "DefaultWeightOnlyQuantConfig": "vqonnx.compat.matmul_nbits_quantizer",
    "DynamicQuantConfig": "vqonnx.compat.configs",
    "GPTQWeightOnlyQuantConfig": "vqonnx.compat.matmul_nbits_quantizer",
    "HQQWeightOnlyQuantConfig": "vqonnx.compat.matmul_nbits_quantizer",
    "KQuantWeightOnlyQuantConfig": "vqonnx.compat.matmul_nbits_quantizer",
    "Kernel": "vqonnx.core.target",
    "MatMulNBitsQuantizer": "vqonnx.compat.matmul_nbits_quantizer",
    "MinMaxCalibrater": "vqonnx.compat.calibrate",
    "NVAWQWeightOnlyQuantConfig": "vqonnx.compat.matmul_nbits_quantizer",
    "ONNXQuantizer": "vqonnx.quantizers.onnx_quantizer",
    "OpSupport": "vqonnx.core.target",
    "Plan": "vqonnx.core.plan",
    "PowerOfTwoMethod": "vqonnx.quantizers.types",
    "QDQQuantizer": "vqonnx.quantizers.qdq_quantizer",
    "QuantFormat": "vqonnx.quantizers.types",
    "QuantSpec": "vqonnx.core.spec",
    "QuantType": "vqonnx.quantizers.types",
    "QuantizationMode": "vqonnx.quantizers.types",
    "QuantizedValue": "vqonnx.quantizers.tensors",
    "RTNWeightOnlyQuantConfig": "vqonnx.compat.matmul_nbits_quantizer",
    "Report": "vqonnx.report.model",
    "StaticQuantConfig": "vqonnx.compat.configs",
    "Target": "vqonnx.core.target",
    "TensorData": "vqonnx.compat.calibrate",
    "TensorsData": "vqonnx.compat.calibrate",
    "VitisFixNeuronQuantizer": "vqonnx.quantizers.vitis",
    "VitisONNXQuantizer": "vqonnx.quantizers.vitis",
    "VitisQDQQuantizer": "vqonnx.quantizers.vitis",
    "VitisQuantFormat": "vqonnx.quantizers.types",
    "VqonnxError": "vqonnx.errors",
    "WeightOnlyQuantConfig": "vqonnx.compat.matmul_nbits_quantizer",
    "convert_weights": "vqonnx.api.convert",
    "create_calibrator": "vqonnx.compat.calibrate",
    "get_int_qdq_config": "vqonnx.compat.configs",
    "get_qdq_config": "vqonnx.compat.configs",
    "load_tensors_data": "vqonnx.compat.calibrate",
    "plan": "vqonnx.api.static",
    "quant_pre_process": "vqonnx.compat.shape_inference",
    "quantize": "vqonnx.compat",
    "quantize_dynamic": "vqonnx.api.dynamic",
    "quantize_static": "vqonnx.api.static",
    "quantize_weight_only": "vqonnx.api.weights",
    "save_tensors_data": "vqonnx.compat.calibrate",
    "write_calibration_table": "vqonnx.compat.calibration_table",
}

__all__ = [  # noqa: RUF022 - the version last
    "AWQWeightOnlyQuantConfig",
    "BaseQuantizer",
    "CalibraterBase",
    "CalibrationDataReader",
    "CalibrationMethod",
    "Conversion",
    "DefaultWeightOnlyQuantConfig",
    "DynamicQuantConfig",
    "GPTQWeightOnlyQuantConfig",
    "HQQWeightOnlyQuantConfig",
    "KQuantWeightOnlyQuantConfig",
    "Kernel",
    "MatMulNBitsQuantizer",
    "MinMaxCalibrater",
    "NVAWQWeightOnlyQuantConfig",
    "ONNXQuantizer",
    "OpSupport",
    "Plan",
    "PowerOfTwoMethod",
    "QDQQuantizer",
    "QuantFormat",
    "QuantSpec",
    "QuantType",
    "QuantizationMode",
    "QuantizedValue",
    "RTNWeightOnlyQuantConfig",
    "Report",
    "StaticQuantConfig",
    "Target",
    "TensorData",
    "TensorsData",
    "VitisFixNeuronQuantizer",
    "VitisONNXQuantizer",
    "VitisQDQQuantizer",
    "VitisQuantFormat",
    "VqonnxError",
    "WeightOnlyQuantConfig",
    "convert_weights",
    "create_calibrator",
    "get_int_qdq_config",
    "get_qdq_config",
    "load_tensors_data",
    "plan",
    "quant_pre_process",
    "quantize",
    "quantize_dynamic",
    "quantize_static",
    "quantize_weight_only",
    "save_tensors_data",
    "write_calibration_table",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name == "ops":
        return importlib.import_module("vqonnx.ops")
    if name not in _HOMES:
        raise AttributeError(f"module 'vqonnx' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
