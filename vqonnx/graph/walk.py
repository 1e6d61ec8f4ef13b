"""Read-only access to an ``ir.Model``: graphs, nodes, values and constants, subgraphs and functions included.

Every function here is linear in what it visits. ``ir.Graph.node(name)`` is not, so use ``nodes_by_name``.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

FLOAT_TYPES = frozenset(
    {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE},
)

_CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
_SCALAR_DTYPES = {"value_float": np.float32, "value_int": np.int64}
_LIST_DTYPES = {"value_floats": np.float32, "value_ints": np.int64}


def subgraphs(node: ir.Node) -> Iterator[ir.Graph]:
    """The bodies held directly by ``node``'s attributes, in attribute order; not the bodies inside those."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def nested_graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    """``graph`` itself, then every body inside it, depth first in node order."""
    pending = [graph]
    while pending:
        current = pending.pop()
        yield current
        pending.extend(reversed([body for node in current for body in subgraphs(node)]))


def holds_control_flow(node: ir.Node) -> bool:
    """Whether the node is an If, Loop or Scan: what its bodies compute is ordinary, and may read the graph around it.

    Bodies of other operators (SequenceMap, com.microsoft's BeamSearch) follow rules of their own.
    """
    return node.op_type in _CONTROL_FLOW and node.domain in ("", "ai.onnx")


def control_flow_graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    """``graph`` itself, then the bodies of each If, Loop and Scan inside it, depth first in node order."""
    yield graph
    for node in graph:
        if holds_control_flow(node):
            for body in subgraphs(node):
                yield from control_flow_graphs(body)


def control_flow_nodes(graph: ir.Graph) -> Iterator[ir.Node]:
    """The nodes of these graphs, the bodies' behind the node that holds them."""
    for node in graph:
        yield node
        if holds_control_flow(node):
            for body in subgraphs(node):
                yield from control_flow_nodes(body)


def graphs(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph, the bodies inside it, then each function's body and the bodies inside those."""
    yield from nested_graphs(model.graph)
    for function in model.functions.values():
        yield from nested_graphs(function.graph)


def nodes(model: ir.Model) -> Iterator[ir.Node]:
    """Every node of the model, the main graph's first. Edits during the walk are not seen reliably: list it."""
    for graph in graphs(model):
        yield from graph


def graph_values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every value that ``graph`` itself defines, once: inputs, initializers, then node outputs.

    Absent optional outputs (named ``""``) are left out.
    """
    yield from graph.inputs
    yield from (value for value in graph.initializers.values() if not value.is_graph_input())
    for node in graph:
        yield from (output for output in node.outputs if output.name != "")


def values(model: ir.Model) -> Iterator[ir.Value]:
    """Every value of the model, once, in the order of ``graphs``."""
    for graph in graphs(model):
        yield from graph_values(graph)


def nodes_by_name(model: ir.Model) -> dict[str, ir.Node]:
    """Node name to node, over the whole model; where a name occurs twice the first node wins."""
    found: dict[str, ir.Node] = {}
    for node in nodes(model):
        if node.name:
            found.setdefault(node.name, node)
    return found


def values_by_name(model: ir.Model) -> dict[str, ir.Value]:
    """Value name to value, over the whole model; where a name occurs twice the first value wins."""
    found: dict[str, ir.Value] = {}
    for value in values(model):
        if value.name:
            found.setdefault(value.name, value)
    return found


def consumers(value: ir.Value) -> tuple[ir.Node, ...]:
    """The nodes that read ``value``, each once, in the order they were connected; captured reads included."""
    return tuple(value.consumers())


def only_reader(value: ir.Value) -> tuple[ir.Node, int] | None:
    """The node of the same graph that alone reads ``value``, and by which input; None for a graph output too."""
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    node, index = next(iter(uses))
    return (node, index) if node.graph is value.graph else None


def is_float(value: ir.Value | None) -> bool:
    """Whether the value's type is known and is float16, bfloat16, float32 or float64."""
    return value is not None and value.dtype in FLOAT_TYPES


def release(tensor: ir.TensorProtocol | None) -> None:
    """Close the map of a tensor in a data file, so that its pages may go and the file be replaced.

    The next reading maps it again. Arrays that are still in use stay valid: the map goes with the last of them.
    """
    if isinstance(tensor, ir.ExternalTensor):
        with contextlib.suppress(BufferError):
            tensor.release()
        tensor.raw = None


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of a value that no run can change, or None; nothing is read from disk.

    That is an initializer which is not a graph input too (since IR version 4 such an input may be fed), or
    the output of a Constant node. String constants have no tensor of numbers and give None.
    """
    if value is None:
        return None
    node = value.producer()
    if node is not None:
        return _constant_node_tensor(node)
    if not value.is_initializer() or value.is_graph_input():
        return None
    tensor = value.const_value
    return None if tensor is None or tensor.dtype == ir.DataType.STRING else tensor


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The numbers of a constant value (see ``constant_tensor``), in its own dtype and shape; else None.

    The array may be a read-only map of a file: copy it before writing.
    """
    tensor = constant_tensor(value)
    return None if tensor is None else tensor.numpy()


def _constant_node_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            return None
        if name == "value":
            tensor = attribute.as_tensor()
            return None if tensor.dtype == ir.DataType.STRING else tensor
        dtype = _SCALAR_DTYPES.get(name) or _LIST_DTYPES.get(name)
        if dtype is not None:
            return ir.Tensor(np.asarray(attribute.value, dtype=dtype), name=node.outputs[0].name)
    return None
