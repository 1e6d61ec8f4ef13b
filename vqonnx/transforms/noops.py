"""Nodes that pass their input on unchanged."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import onnx_ir as ir

from vqonnx.graph.edit import remove_node, replace_uses
from vqonnx.graph.facts import int_attribute
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import constant, graphs


def remove_noops(model: ir.Model) -> int:
    """Remove nodes that do nothing; return how many. Bodies and functions are included.

    These are Identity, Dropout outside training, Cast to the type that is there, Transpose that keeps the
    order, Reshape to the present fixed shape, Pad by zeros, and Concat, Sum, Mean, Max or Min of one tensor.
    A node whose output is a graph output goes only if its input can take over the output's name.
    """
    names = NameAllocator.of(model)
    count = 0
    for graph in graphs(model):
        for node in list(graph):
            if _does_nothing(node) and _can_go(node):
                _remove(node, names)
                count += 1
    return count


def _remove(node: ir.Node, names: NameAllocator) -> None:
    source, output = node.inputs[0], node.outputs[0]
    if source is None:  # pragma: no cover - _can_go looked
        raise TypeError(f"node {node.name!r} has no input")
    source.type = source.type or output.type
    source.shape = source.shape or output.shape
    replace_uses(output, source, names, keep=(node,))
    remove_node(node)


def _can_go(node: ir.Node) -> bool:
    source = node.inputs[0] if node.inputs else None
    if source is None or any(output.uses() or output.is_graph_output() for output in node.outputs[1:]):
        return False
    if not node.outputs[0].is_graph_output():
        return True
    producer = source.producer()
    return producer is not None and producer.graph is node.graph and not source.is_graph_output()


def _does_nothing(node: ir.Node) -> bool:
    check = _CHECKS.get(node.op_type)
    return check is not None and node.domain in ("", "ai.onnx") and bool(node.inputs) and check(node)


def _always(node: ir.Node) -> bool:
    return True


def _is_alone(node: ir.Node) -> bool:
    return len(node.inputs) == 1


def _drops_nothing(node: ir.Node) -> bool:
    """Dropout: input 2 asks for training since opset 12; opset 7 to 11 never train; ``is_test`` is before that."""
    if "is_test" in node.attributes:
        return int_attribute(node, "is_test", 0) == 1
    training = node.inputs[2] if len(node.inputs) > 2 else None
    if training is None:
        return True
    asked = constant(training)
    return asked is not None and not asked.any()


def _casts_to_same(node: ir.Node) -> bool:
    source = node.inputs[0]
    return source is not None and source.dtype is not None and source.dtype == int_attribute(node, "to", 0)


def _keeps_order(node: ir.Node) -> bool:
    perm = node.attributes.get("perm")
    return perm is not None and not perm.is_ref() and list(perm.as_ints()) == list(range(len(perm.as_ints())))


def _keeps_shape(node: ir.Node) -> bool:
    """Reshape; a size of 0 is not looked into, since it means "as before" or "none" by ``allowzero``."""
    source = node.inputs[0]
    shape = None if source is None else source.shape
    wanted = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if shape is None or wanted is None or not shape.is_static() or not wanted.all():
        return False
    return tuple(wanted.tolist()) == shape.numpy()


def _pads_nothing(node: ir.Node) -> bool:
    """Pad: widths are an attribute up to opset 10, input 1 since."""
    attribute = node.attributes.get("pads")
    if attribute is not None:
        return not attribute.is_ref() and not any(attribute.as_ints())
    widths = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    return widths is not None and not widths.any()


_CHECKS: Mapping[str, Callable[[ir.Node], bool]] = MappingProxyType(
    {
        "Cast": _casts_to_same,
        "Concat": _is_alone,
        "Dropout": _drops_nothing,
        "Identity": _always,
        "Max": _is_alone,
        "Mean": _is_alone,
        "Min": _is_alone,
        "Pad": _pads_nothing,
        "Reshape": _keeps_shape,
        "Sum": _is_alone,
        "Transpose": _keeps_order,
    }
)
