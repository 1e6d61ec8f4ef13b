"""onnxruntime.quantization.neural_compressor.weight_only, a copy of Neural Compressor's functions for ONNX."""

from vqonnx.compat.neural_compressor.onnxrt import pad_tensor, qdq_tensor, quant_tensor, rtn_quantize

__all__ = ["pad_tensor", "qdq_tensor", "quant_tensor", "rtn_quantize"]
