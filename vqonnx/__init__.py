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
    )
    from vqonnx.quantizers.vitis import VitisONNXQuantizer, VitisQDQQuantizer
    from vqonnx.report.model import Report

_HOMES = {
    "AWQWeightOnlyQuantConfig": "vqonnx.compat.matmul_nbits_quantizer",
    "BaseQuantizer": "vqonnx.quantizers.base",
    "CalibrationMethod": "vqonnx.quantizers.types",
    "Conversion": "vqonnx.api.convert",
    "DefaultWeightOnlyQuantConfig": "vqonnx.compat.matmul_nbits_quantizer",
    "GPTQWeightOnlyQuantConfig": "vqonnx.compat.matmul_nbits_quantizer",
    "HQQWeightOnlyQuantConfig": "vqonnx.compat.matmul_nbits_quantizer",
    "KQuantWeightOnlyQuantConfig": "vqonnx.compat.matmul_nbits_quantizer",
    "Kernel": "vqonnx.core.target",
    "MatMulNBitsQuantizer": "vqonnx.compat.matmul_nbits_quantizer",
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
    "Target": "vqonnx.core.target",
    "VitisONNXQuantizer": "vqonnx.quantizers.vitis",
    "VitisQDQQuantizer": "vqonnx.quantizers.vitis",
    "VqonnxError": "vqonnx.errors",
    "WeightOnlyQuantConfig": "vqonnx.compat.matmul_nbits_quantizer",
    "convert_weights": "vqonnx.api.convert",
    "plan": "vqonnx.api.static",
    "quantize_dynamic": "vqonnx.api.dynamic",
    "quantize_static": "vqonnx.api.static",
    "quantize_weight_only": "vqonnx.api.weights",
}

__all__ = [  # noqa: RUF022 - the version last
    "AWQWeightOnlyQuantConfig",
    "BaseQuantizer",
    "CalibrationMethod",
    "Conversion",
    "DefaultWeightOnlyQuantConfig",
    "GPTQWeightOnlyQuantConfig",
    "HQQWeightOnlyQuantConfig",
    "KQuantWeightOnlyQuantConfig",
    "Kernel",
    "MatMulNBitsQuantizer",
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
    "Target",
    "VitisONNXQuantizer",
    "VitisQDQQuantizer",
    "VqonnxError",
    "WeightOnlyQuantConfig",
    "convert_weights",
    "plan",
    "quantize_dynamic",
    "quantize_static",
    "quantize_weight_only",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name == "ops":
        return importlib.import_module("vqonnx.ops")
    if name not in _HOMES:
        raise AttributeError(f"module 'vqonnx' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
