"""DequantizeLinear and QuantizeLinear of the same numbers behind each other, which give back the codes."""

import numpy as np
import onnx_ir as ir

from vqonnx.graph.edit import remove_dead
from vqonnx.graph.walk import constant, nested_graphs


def join_pairs(model: ir.Model) -> int:
    """Let what reads codes that were dequantized and quantized alike read the codes themselves; return how many.

    quantize(dequantize(q)) = q where both have one scale and one zero point, and these are equal. Nothing is done for
    codes that are a graph output. Bodies are included.
    """
    joined = 0
    for graph in nested_graphs(model.graph):
        for node in graph:
            codes = _codes_before(node)
            if codes is None or node.outputs[0].is_graph_output():
                continue
            for reader, index in tuple(node.outputs[0].uses()):
                reader.replace_input_with(index, codes)
                _hand_on(node.inputs[0], reader)
            joined += 1
    if joined:
        remove_dead(model)
    return joined


def _hand_on(dequantized: ir.Value | None, reader: ir.Node) -> None:
    """Let what a DequantizeLinear makes of the codes be known as the equal value that may go now."""
    if dequantized is not None and reader.op_type == "DequantizeLinear":
        known = reader.outputs[0].meta
        known.update({key: value for key, value in dequantized.meta.items() if key not in known})


def _codes_before(node: ir.Node) -> ir.Value | None:
    """The codes that a QuantizeLinear gives back; None where it makes other ones."""
    source = node.inputs[0] if node.op_type == "QuantizeLinear" and node.inputs else None
    maker = source.producer() if source is not None else None
    if maker is None or maker.op_type != "DequantizeLinear" or maker.domain != node.domain:
        return None
    for index in (1, 2):
        one, other = (constant(each.inputs[index]) if len(each.inputs) > index else None for each in (maker, node))
        if one is None or other is None or one.size != 1 or one.dtype != other.dtype or not np.array_equal(one, other):
            return None
    return maker.inputs[0]
