"""onnxruntime.quantization.qdq_quantizer: the quantizer object of the QDQ form."""

from vqonnx.compat.base_quantizer import BaseQuantizer

__all__ = ["QDQQuantizer"]


class QDQQuantizer(BaseQuantizer):
    """Writes QuantizeLinear -> DequantizeLinear pairs; see ``BaseQuantizer`` for the parameters."""
