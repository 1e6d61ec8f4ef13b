"""Means over all positions, written as the pooling that integer runtimes have a kernel for."""

import onnx_ir as ir

from vqonnx.graph.edit import insert_before, make_node, remove_node, replace_uses
from vqonnx.graph.facts import int_attribute
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import constant, nested_graphs

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
    axes = {axis % rank for axis in _axes(node)}
    return axes == set(range(2, rank)) and not _normalizes(node, x)


def _axes(node: ir.Node) -> tuple[int, ...]:
    """Axes by the attribute (before opset 18) or the constant input; none where absent or not constant."""
    attribute = node.attributes.get("axes")
    if attribute is not None:
        return () if attribute.is_ref() else tuple(attribute.as_ints())
    numbers = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return () if numbers is None else tuple(int(axis) for axis in numbers.reshape(-1))


def _normalizes(node: ir.Node, x: ir.Value) -> bool:
    """Whether the mean is subtracted from something, or is one of squares."""
    maker = x.producer()
    squares = maker is not None and (
        maker.op_type == "Pow" or (maker.op_type == "Mul" and maker.inputs[0] is maker.inputs[1])
    )
    return squares or any(reader.op_type == "Sub" for reader in node.outputs[0].consumers())


def _replace(node: ir.Node, names: NameAllocator) -> None:
    x, old = node.inputs[0], node.outputs[0]
    new = [make_node(names, "GlobalAveragePool", [x])]
    if not int_attribute(node, "keepdims", 1):
        pooled = new[0].outputs[0]
        if x is not None and x.shape is not None:
            pooled.type = x.type
            pooled.shape = ir.Shape([*x.shape[:2], *(1 for _ in x.shape[2:])])
        new.append(make_node(names, "Flatten", [pooled], {"axis": 1}))
    result = new[-1].outputs[0]
    result.type, result.shape = old.type, old.shape
    insert_before(node, new)
    replace_uses(old, result, names)
    remove_node(node)
    new[0].name = node.name
