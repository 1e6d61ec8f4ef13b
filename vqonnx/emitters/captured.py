"""Quantized values that bodies capture: codes must reach the body's door, and integer nodes inside dequantize them.

ONNX Runtime (1.24 to 1.31) fuses an operator with a DequantizeLinear of its own graph only. It also moves
DequantizeLinear behind nodes that only move data, and puts a pair on every edge that leaves them. An edge into the body
of an If or a Loop is no input of the node that holds the body, and the process aborts while it loads the model. A pair
that stands there already stops it.
"""

from collections.abc import Collection

import onnx_ir as ir

from vqonnx.graph.edit import insert_after_value, insert_first, make_node
from vqonnx.graph.names import NameAllocator

_MOVERS = frozenset({"Identity", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})


def quantize_captured(model: ir.Model) -> int:
    """Give bodies the quantized form of what data movers make of dequantized values, in place.

    The numbers stay what they are: they are on the grid of the scale already.

    Returns:
        How many values got a pair.
    """
    names, count = NameAllocator.of(model), 0
    for node in tuple(model.graph.all_nodes()):
        if node.op_type in _MOVERS and (source := _dequantizer(node)) is not None and _captures(node.outputs[0]):
            _insert_pair(node.outputs[0], source, names)
            count += 1
    return count


def dequantize_in_bodies(model: ir.Model, planned: Collection[str]) -> int:
    """Let planned nodes of bodies dequantize captured codes themselves, in place.

    Args:
        model: A quantized model.
        planned: Names of the planned nodes.

    Returns:
        How many DequantizeLinears were copied into bodies.
    """
    names, count = NameAllocator.of(model), 0
    for node in tuple(model.graph.all_nodes()):
        if not node.op_type.endswith("DequantizeLinear"):
            continue
        readers: dict[ir.Graph, list[tuple[ir.Node, int]]] = {}
        for reader, index in _captures(node.outputs[0]):
            if reader.name in planned and isinstance(reader.graph, ir.Graph):
                readers.setdefault(reader.graph, []).append((reader, index))
        for body, uses in readers.items():
            copy = _copied(node, names)
            insert_first(body, copy)
            for reader, index in uses:
                reader.replace_input_with(index, copy.outputs[0])
            count += 1
    return count


def _copied(node: ir.Node, names: NameAllocator) -> ir.Node:
    """The same operator on the same inputs, with what is known of its output."""
    old, operator = node.outputs[0], f"{node.domain}::{node.op_type}"
    outputs = [str(old.name)]
    copy = make_node(names, operator, node.inputs, dict(node.attributes), name=node.name, outputs=outputs)
    new = copy.outputs[0]
    new.type, new.shape = old.type, old.shape
    new.meta.update(old.meta)
    return copy


def _captures(value: ir.Value) -> list[tuple[ir.Node, int]]:
    """The reads by nodes of bodies."""
    return [(node, index) for node, index in value.uses() if node.graph is not value.graph]


def _dequantizer(node: ir.Node) -> ir.Node | None:
    """The DequantizeLinear with one scale that ``node`` moves the result of, through other movers."""
    maker: ir.Node | None = node
    while maker is not None and maker.op_type in _MOVERS:
        source = maker.inputs[0]
        maker = source.producer() if source is not None else None
    if maker is None or maker.op_type != "DequantizeLinear":
        return None
    scale = maker.inputs[1]
    return maker if scale is not None and scale.shape is not None and not scale.shape.rank() else None


def _insert_pair(value: ir.Value, source: ir.Node, names: NameAllocator) -> None:
    captures, (codes, *numbers) = _captures(value), source.inputs
    quantize, dequantize = (f"{source.domain}::{name}" for name in ("QuantizeLinear", "DequantizeLinear"))
    first = make_node(names, quantize, [value, *numbers], name=f"{value.name}_QuantizeLinear")
    second = make_node(names, dequantize, [first.outputs[0], *numbers], name=f"{value.name}_DequantizeLinear")
    if codes is not None:
        first.outputs[0].type = codes.type
    second.outputs[0].type = value.type
    first.outputs[0].shape = second.outputs[0].shape = value.shape
    insert_after_value(value, [first, second])
    for node, index in captures:
        node.replace_input_with(index, second.outputs[0])
