"""The fusion of L2 normalizations, by onnxruntime's name."""

import onnx_ir as ir

from vqonnx.compat.fusions import Fusion
from vqonnx.compat.onnx_model import ONNXModel
from vqonnx.transforms.fuse_l2_norm import fuse_l2_norms


class FusionLpNormalization(Fusion):
    """Divisions by the Euclidean length along an axis, as LpNormalization.

    Attributes:
        epsilon: The floor under the length that the caller expects; any that is negligible does.
    """

    def __init__(self, model: ONNXModel, epsilon: float = 1e-12) -> None:
        super().__init__(model, "LpNormalization", "ReduceL2")
        self.epsilon = epsilon

    def _rewrite(self, model: ir.Model) -> int:
        return fuse_l2_norms(model)
