"""What the fusions share: vqonnx's float -> float passes over the peer's ONNXModel."""

import onnx_ir as ir

from vqonnx.compat.onnx_model import ONNXModel
from vqonnx.graph.inference import infer_missing
from vqonnx.graph.io import load
from vqonnx.graph.names import ensure_unique_names
from vqonnx.graph.proto import to_proto


class Fusion:
    """A pass over a model that replaces sequences of nodes by one; subclasses say which.

    Attributes:
        model: The model; ``apply`` changes its message in place.
        fused_op_type: The operator that takes the place.
        search_op_type: The operator that a sequence is found by.
    """

    def __init__(self, model: ONNXModel, fused_op_type: str, search_op_type: str) -> None:
        self.model, self.fused_op_type, self.search_op_type = model, fused_op_type, search_op_type

    def apply(self) -> bool:
        """Run the pass; return whether it changed anything. All nodes then have a name.

        Raises:
            ModelError: The model is not valid.
        """
        model = load(self.model.model)
        infer_missing(model)
        if not self._rewrite(model):
            return False
        ensure_unique_names(model)
        self.model.model.CopyFrom(to_proto(model))
        return True

    def _rewrite(self, model: ir.Model) -> int:
        """Change a private model; return how many sequences were replaced."""
        raise NotImplementedError
