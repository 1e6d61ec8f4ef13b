"""Gelus that are written out."""

import onnx_ir as ir

from vqonnx.compat.fusions.fusion import Fusion
from vqonnx.compat.onnx_model import ONNXModel
from vqonnx.transforms.fuse_gelu import fuse_gelus


class FusionGelu(Fusion):
    """Gelus that are written out; below opset 20 ONNX Runtime's own operator."""

    def __init__(self, model: ONNXModel) -> None:
        super().__init__(model, "Gelu", "Erf")

    def _rewrite(self, model: ir.Model) -> int:
        return fuse_gelus(model, contrib=True)
