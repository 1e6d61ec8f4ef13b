"""The QDQ form: the class behind ``quantize_static``."""

from vqonnx.quantizers.base import BaseQuantizer


class QDQQuantizer(BaseQuantizer):
    """Writes QuantizeLinear -> DequantizeLinear pairs, which runtimes fuse with the operators between them.

    Subclass it for an execution provider of your own: set ``target``, and override the methods that decide a
    number differently. The parameters are those of onnxruntime.quantization; None lets the target choose.
    """
