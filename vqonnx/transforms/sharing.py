"""Constants that several nodes read, as one for each: a device may want its own layout or scale at each reader."""

import copy
from collections.abc import Collection

import onnx_ir as ir

from vqonnx.graph.edit import add_initializer
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import constant_tensor, nested_graphs

LINEAR_OPERATORS = frozenset({"Conv", "ConvTranspose", "Gemm"})
"""Operators whose input 2 is a bias."""
_BIAS = 2


def copy_shared_initializers(model: ir.Model, operators: Collection[str] = ()) -> int:
    """Give each node of ``operators`` an initializer of its own where others read it too; return how many copies.

    One reader keeps the original, also where it is read once more as a graph output. A copy shares the tensor's
    memory or file until one is written. Bodies are included. ``duplicates.merge_duplicate_initializers`` undoes it.

    Args:
        model: Names must be unique.
        operators: Operator types; empty for all.
    """
    return _copy(model, operators, first=0, last=None)


def copy_shared_biases(model: ir.Model, operators: Collection[str] = LINEAR_OPERATORS) -> int:
    """Like ``copy_shared_initializers``, for the biases of linear operators alone.

    A quantized bias has the scale of its node's input times that of its weight, so no two nodes agree on one.
    """
    return _copy(model, operators, first=_BIAS, last=_BIAS)


def _copy(model: ir.Model, operators: Collection[str], *, first: int, last: int | None) -> int:
    names = NameAllocator.of(model)
    count = 0
    for graph in nested_graphs(model.graph):
        for node in graph:
            if operators and node.op_type not in operators:
                continue
            stop = len(node.inputs) if last is None else last + 1
            for index, value in enumerate(node.inputs[:stop]):
                if index >= first and value is not None and _is_shared(value):
                    _give_copy(node, index, value, names)
                    count += 1
    return count


def _is_shared(value: ir.Value) -> bool:
    readers = len(value.uses()) + value.is_graph_output()
    return readers > 1 and value.is_initializer() and constant_tensor(value) is not None


def _give_copy(node: ir.Node, index: int, value: ir.Value, names: NameAllocator) -> None:
    if value.graph is None or value.const_value is None or value.name is None:  # pragma: no cover - _is_shared looked
        raise TypeError(f"initializer {value.name!r} is in no graph")
    name = names.unique(value.name)
    tensor = copy.copy(value.const_value)
    tensor.name = name
    node.replace_input_with(index, add_initializer(value.graph, name, tensor))
