"""The fusions of onnxruntime.quantization.fusions."""

import onnx_ir as ir

from vqonnx.compat.fusions.fusion import Fusion
from vqonnx.compat.onnx_model import ONNXModel
from vqonnx.compat.shape_inference import resize_upsamples
from vqonnx.transforms.fuse_gelu import fuse_gelus
from vqonnx.transforms.fuse_layer_norm import fuse_layer_norms


class FusionGelu(Fusion):
    """Gelus that are written out; below opset 20 ONNX Runtime's own operator."""

    def __init__(self, model: ONNXModel) -> None:
        super().__init__(model, "Gelu", "Erf")

    def _rewrite(self, model: ir.Model) -> int:
        return fuse_gelus(model, contrib=True)


class FusionLayerNormalization(Fusion):
    """LayerNormalizations that are written out, from opset 17 on."""

    def __init__(self, model: ONNXModel) -> None:
        super().__init__(model, "LayerNormalization", "ReduceMean")

    def _rewrite(self, model: ir.Model) -> int:
        return fuse_layer_norms(model)


class ReplaceUpsampleWithResize(Fusion):
    """Upsample, which opset 10 dropped, as Resize; the opset becomes 11 at least.

    Attributes:
        opset: The model's opset, as the caller knows it.
    """

    def __init__(self, model: ONNXModel, opset: int) -> None:
        super().__init__(model, "Resize", "Upsample")
        self.opset = opset

    def _rewrite(self, model: ir.Model) -> int:
        return resize_upsamples(model)
