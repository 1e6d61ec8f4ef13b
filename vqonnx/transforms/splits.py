"""Splits as Slices, each of which a device may place on its own."""

import itertools

import numpy as np
import onnx_ir as ir

from vqonnx.graph.edit import add_initializer, insert_before, make_node, remove_node, replace_uses
from vqonnx.graph.facts import int_attribute
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import constant, nested_graphs

_BOUNDS_ARE_INPUTS = 10
"""The opset since which Slice takes starts, ends and axes as inputs."""


def splits_to_slices(model: ir.Model) -> int:
    """Turn each Split whose part sizes are known into one Slice for each part that is read; return how many.

    Sizes are the attribute ``split`` (before opset 13), the constant input 1, or the axis's size by the number of
    parts, of which the last may be smaller (``num_outputs``, opset 18). With sizes given, the axis itself may be
    dynamic. Bodies are included; the first Slice takes over the name.
    """
    names = NameAllocator.of(model)
    as_inputs = model.opset_imports.get("", 0) >= _BOUNDS_ARE_INPUTS
    nodes = [node for graph in nested_graphs(model.graph) for node in graph if node.op_type == "Split"]
    return sum(_replace(node, as_inputs, names) for node in nodes if not node.domain)


def _replace(node: ir.Node, as_inputs: bool, names: NameAllocator) -> bool:
    sizes = _sizes(node)
    if sizes is None:
        return False
    axis, ends = int_attribute(node, "axis", 0), tuple(itertools.accumulate(sizes))
    slices = []
    for output, start, end in zip(node.outputs, (0, *ends), ends, strict=False):
        if not (output.uses() or output.is_graph_output()):
            continue
        part = _slice(node, {"starts": start, "ends": end, "axes": axis}, as_inputs, names)
        insert_before(node, part)
        part.outputs[0].type, part.outputs[0].shape = output.type, output.shape
        replace_uses(output, part.outputs[0], names)
        slices.append(part)
    remove_node(node)
    for part in slices[:1]:
        part.name = node.name
    return True


def _slice(node: ir.Node, bounds: dict[str, int], as_inputs: bool, names: NameAllocator) -> ir.Node:
    graph = node.graph
    if not isinstance(graph, ir.Graph):  # pragma: no cover - splits come from graphs
        raise TypeError(f"node {node.name!r} is in no graph")
    x, name = node.inputs[0], names.unique(f"{node.name}_slice")
    if not as_inputs:
        return make_node(names, "Slice", [x], {role: [number] for role, number in bounds.items()}, name=name)
    constants = [
        add_initializer(graph, names.unique(f"{name}_{role}"), np.array([number], np.int64))
        for role, number in bounds.items()
    ]
    return make_node(names, "Slice", [x, *constants], name=name)


def _sizes(node: ir.Node) -> tuple[int, ...] | None:
    """The size of each part along the axis; None where it is not known."""
    attribute, value = node.attributes.get("split"), node.inputs[1] if len(node.inputs) > 1 else None
    if attribute is not None:
        return None if attribute.is_ref() else tuple(attribute.as_ints())
    if value is None:
        return _even_sizes(node)
    numbers = constant(value)
    return None if numbers is None else tuple(int(size) for size in numbers.reshape(-1))


def _even_sizes(node: ir.Node) -> tuple[int, ...] | None:
    x, parts = node.inputs[0], len(node.outputs)
    # Of parts that end in absent ones, runtimes disagree on the number.
    if x is None or x.shape is None or not node.outputs[-1].name:
        return None
    total = x.shape[int_attribute(node, "axis", 0)]
    if not isinstance(total, int):
        return None
    size = -(-total // parts)
    last = total - size * (parts - 1)
    return (*(size,) * (parts - 1), last) if last >= 0 else None
