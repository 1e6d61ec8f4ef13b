"""onnxruntime.quantization.fusions over vqonnx's passes."""

from vqonnx.compat.fusions.fusion import Fusion
from vqonnx.compat.fusions.fusion_gelu import FusionGelu
from vqonnx.compat.fusions.fusion_layernorm import FusionLayerNormalization
from vqonnx.compat.fusions.replace_upsample_with_resize import ReplaceUpsampleWithResize

__all__ = ["Fusion", "FusionGelu", "FusionLayerNormalization", "ReplaceUpsampleWithResize"]
