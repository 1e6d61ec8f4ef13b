"""The fusion of SpaceToDepths, by onnxruntime's name."""

import onnx_ir as ir

from vqonnx.compat.fusions import Fusion
from vqonnx.compat.onnx_model import ONNXModel
from vqonnx.transforms.fuse_space_to_depth import fuse_space_to_depths


class FusionSpaceToDepth(Fusion):
    """SpaceToDepths that are written out with Reshape and Transpose."""

    def __init__(self, model: ONNXModel) -> None:
        super().__init__(model, "SpaceToDepth", "Reshape")

    def _rewrite(self, model: ir.Model) -> int:
        return fuse_space_to_depths(model)
