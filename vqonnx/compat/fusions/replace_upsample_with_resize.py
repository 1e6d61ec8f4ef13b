"""Upsample, which opset 10 dropped."""

import onnx_ir as ir

from vqonnx.compat.fusions.fusion import Fusion
from vqonnx.compat.onnx_model import ONNXModel
from vqonnx.compat.shape_inference import resize_upsamples


class ReplaceUpsampleWithResize(Fusion):
    """Upsample as Resize; the opset becomes 11 at least.

    Attributes:
        opset: The model's opset, as the caller knows it.
    """

    def __init__(self, model: ONNXModel, opset: int) -> None:
        super().__init__(model, "Resize", "Upsample")
        self.opset = opset

    def _rewrite(self, model: ir.Model) -> int:
        return resize_upsamples(model)
