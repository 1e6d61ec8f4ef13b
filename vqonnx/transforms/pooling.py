"""Means over all positions, written as the pooling that integer runtimes have a kernel for."""

import onnx_ir as ir

from vqonnx.graph.edit import make_node, replace_node
from vqonnx.graph.facts import int_attribute, reduced_axes
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import nested_graphs

_TYPES = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})
"""What ONNX Runtime pools on a CPU; ReduceMean knows double and integers too."""


def average_globally(model: ir.Model) -> int:
    """Turn each ReduceMean over all spatial axes into GlobalAveragePool; return how many. Bodies are included.

    The value must be float16 or float32, of known rank 3 to 5, its axes constant. Without ``keepdims`` a Flatten
    follows. The new node takes over the old one's name. Means inside a normalization that is written out are left:
    the runtime fuses that as a whole.
    """
    names = NameAllocator.of(model)
    found = [node for graph in nested_graphs(model.graph) for node in graph if _is_global_mean(node)]
    for node in found:
        _replace(node, names)
    return len(found)


def _is_global_mean(node: ir.Node) -> bool:
    if node.op_type != "ReduceMean" or node.domain:
        return False
    x = node.inputs[0]
    if x is None or x.shape is None or x.dtype not in _TYPES or not 3 <= len(x.shape) <= 5:
        return False
    rank = len(x.shape)
    return reduced_axes(node, rank) == tuple(range(2, rank)) and not _normalizes(node, x)


def _normalizes(node: ir.Node, x: ir.Value) -> bool:
    """Whether the mean is subtracted from something, or is one of squares."""
    maker = x.producer()
    squares = maker is not None and (
        maker.op_type == "Pow" or (maker.op_type == "Mul" and maker.inputs[0] is maker.inputs[1])
    )
    return squares or any(reader.op_type == "Sub" for reader in node.outputs[0].consumers())


def _replace(node: ir.Node, names: NameAllocator) -> None:
    x = node.inputs[0]
    new = [make_node(names, "GlobalAveragePool", [x])]
    if not int_attribute(node, "keepdims", 1):
        pooled = new[0].outputs[0]
        if x is not None and x.shape is not None:
            pooled.type = x.type
            pooled.shape = ir.Shape([*x.shape[:2], *(1 for _ in x.shape[2:])])
        new.append(make_node(names, "Flatten", [pooled], {"axis": 1}))
    replace_node(node, new, names)
