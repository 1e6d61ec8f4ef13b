"""LayerNormalizations that are written out."""

import onnx_ir as ir

from vqonnx.compat.fusions.fusion import Fusion
from vqonnx.compat.onnx_model import ONNXModel
from vqonnx.transforms.fuse_layer_norm import fuse_layer_norms


class FusionLayerNormalization(Fusion):
    """LayerNormalizations that are written out, from opset 17 on."""

    def __init__(self, model: ONNXModel) -> None:
        super().__init__(model, "LayerNormalization", "ReduceMean")

    def _rewrite(self, model: ir.Model) -> int:
        return fuse_layer_norms(model)
