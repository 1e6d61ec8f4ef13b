"""Around float8: what keeps ONNX Runtime from taking QuantizeLinear and DequantizeLinear for those of integers."""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from vqonnx.graph.edit import add_initializer, insert_after_value, make_node, replace_uses
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import constant

_LOWEST = {
    ir.DataType.FLOAT8E4M3FN: -448.0,
    ir.DataType.FLOAT8E5M2: -57344.0,
}


def guard_float8(model: ir.Model, marks: Iterable[str] = ()) -> None:
    """Put a Max with the lowest number that there is before and behind each pair of float8, in place.

    It changes nothing that QuantizeLinear would not. Without it ONNX Runtime 1.31 drops a Relu before such a
    QuantizeLinear, as if nothing below zero had codes, refuses a Clip there, and makes operators on codes of Conv and
    Reshape between such pairs, for which it has no kernels.

    Args:
        model: A model in QDQ form.
        marks: Metadata entries that go from a dequantized value to the one behind its Max.
    """
    names = NameAllocator.of(model)
    for node in list(model.graph.all_nodes()):
        if node.op_type == "QuantizeLinear" and (source := node.inputs[0]) is not None:
            lowest = _lowest(node, node.outputs[0])
            if lowest is not None and source.producer() is not None:
                guard = _max(model, names, source, lowest)
                insert_after_value(source, [guard])
                node.replace_input_with(0, guard.outputs[0])
        elif node.op_type == "DequantizeLinear":
            lowest = _lowest(node, node.inputs[0])
            if lowest is not None:
                result = node.outputs[0]
                guard = _max(model, names, result, lowest)
                insert_after_value(result, [guard])
                replace_uses(result, guard.outputs[0], names, keep=(guard,))
                for mark in marks:
                    if mark in result.meta:
                        guard.outputs[0].meta[mark] = result.meta.pop(mark)


def _lowest(node: ir.Node, codes: ir.Value | None) -> float | None:
    """The lowest number that codes of float8 stand for; None for codes of another type."""
    lowest = None if codes is None or codes.dtype is None else _LOWEST.get(codes.dtype)
    scale = constant(node.inputs[1])
    return None if lowest is None or scale is None else lowest * float(scale.max())


def _max(model: ir.Model, names: NameAllocator, value: ir.Value, lowest: float) -> ir.Node:
    dtype = (value.dtype or ir.DataType.FLOAT).numpy()
    constant = add_initializer(model.graph, names.unique(f"lowest_{value.name}"), np.asarray(lowest, dtype))
    node = make_node(names, "Max", [value, constant], name=f"{value.name}_Max", outputs=[f"{value.name}_Max_Output"])
    node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
    return node
