"""Names of packed nodes as onnxruntime.quantization gives them."""

from collections.abc import Collection

import onnx_ir as ir

from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import nodes

_PACKED = ("GatherBlockQuantized", "MatMulNBits")


def append_bits(model: ir.Model, replaced: Collection[str], names: NameAllocator) -> None:
    """Rename packed nodes that have the names of float ones to ``<name>_Q{bits}``, in place.

    Args:
        model: The packed model.
        replaced: Names of the nodes that were packed.
        names: Where names come from.
    """
    for node in nodes(model):
        if node.op_type in _PACKED and node.name in replaced:
            node.name = names.unique(f"{node.name}_Q{node.attributes['bits'].as_int()}")
