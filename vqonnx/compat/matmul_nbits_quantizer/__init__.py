"""onnxruntime.quantization's ``matmul_nbits_quantizer``: same names, parameters and defaults, faults corrected.

``python -m vqonnx.compat.matmul_nbits_quantizer --input_model … --output_model …`` takes the same options too.
"""

from vqonnx.compat.matmul_nbits_quantizer.configs import (
    AWQWeightOnlyQuantConfig,
    DefaultWeightOnlyQuantConfig,
    GPTQWeightOnlyQuantConfig,
    HQQWeightOnlyQuantConfig,
    KQuantWeightOnlyQuantConfig,
    NVAWQWeightOnlyQuantConfig,
    RTNWeightOnlyQuantConfig,
    WeightOnlyQuantConfig,
)
from vqonnx.compat.matmul_nbits_quantizer.model import ONNXModel
from vqonnx.compat.matmul_nbits_quantizer.quantizer import MatMulNBitsQuantizer
from vqonnx.quantizers.types import QuantFormat

__all__ = [
    "AWQWeightOnlyQuantConfig",
    "DefaultWeightOnlyQuantConfig",
    "GPTQWeightOnlyQuantConfig",
    "HQQWeightOnlyQuantConfig",
    "KQuantWeightOnlyQuantConfig",
    "MatMulNBitsQuantizer",
    "NVAWQWeightOnlyQuantConfig",
    "ONNXModel",
    "QuantFormat",
    "RTNWeightOnlyQuantConfig",
    "WeightOnlyQuantConfig",
]
