"""onnxruntime.quantization.fusions over vqonnx's passes."""

from vqonnx.compat.fusions.fusion import Fusion
from vqonnx.compat.fusions.operators import FusionGelu, FusionLayerNormalization, ReplaceUpsampleWithResize

__all__ = ["Fusion", "FusionGelu", "FusionLayerNormalization", "ReplaceUpsampleWithResize"]
