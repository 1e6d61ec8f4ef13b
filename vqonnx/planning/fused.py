"""Activations that a device computes with the operator before them."""

import onnx_ir as ir

from vqonnx.core.target import OpSupport
from vqonnx.graph.facts import clip_bounds


def is_fused(node: ir.Node, support: OpSupport, before: ir.Node) -> bool:
    """Whether nothing need be quantized between ``before`` and the node, which alone reads it."""
    if not support.kernel.is_activation or (support.behind and before.op_type not in support.behind):
        return False
    return node.op_type != "Clip" or not support.bounds or clip_bounds(node) in support.bounds
