"""Every change to a graph: new nodes and initializers, rewiring, removal. Each is linear in what it touches."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from vqonnx.errors import ModelError
from vqonnx.graph import walk
from vqonnx.graph.names import NameAllocator

Attribute = int | float | str | Sequence[int] | Sequence[float] | Sequence[str] | ir.TensorProtocol | ir.Attr


def make_node(
    names: NameAllocator,
    op: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Attribute] | None = None,
    *,
    name: str | None = None,
    outputs: Sequence[str] | None = None,
) -> ir.Node:
    """A node in no graph yet, with names that are unique in the model ``names`` knows.

    Args:
        names: Where names come from; wished names that are taken get a number.
        op: ``"Conv"`` or, with its domain, ``"com.microsoft::MatMulNBits"``.
        inputs: Values; None where an optional input is absent.
        attributes: Plain Python values, or tensors.
        name: Wished name of the node; its operator by default.
        outputs: Wished names of the outputs; one output called ``<node>_output`` by default.
    """
    domain, _, op_type = op.rpartition("::")
    own = names.unique(name or op_type)
    wished = [f"{own}_output"] if outputs is None else outputs
    made = [ir.Value(name=names.unique(output)) for output in wished]
    return ir.node(op_type, inputs, attributes, domain=domain, outputs=made, name=own)


def add_initializer(graph: ir.Graph, name: str, data: np.ndarray | ir.TensorProtocol) -> ir.Value:
    """Add a constant called ``name`` to ``graph``; arrays are kept, not copied. Subgraphs may read it too.

    Raises:
        ModelError: The graph has an initializer of that name.
    """
    if name in graph.initializers:
        raise ModelError(
            f"cannot add initializer {name!r} to graph {graph.name!r}: the name is taken. "
            "Ask a NameAllocator for a free one."
        )
    tensor = ir.Tensor(data, name=name) if isinstance(data, np.ndarray) else data
    value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=_shape(tensor))
    graph.register_initializer(value)
    return value


def _shape(tensor: ir.TensorProtocol) -> ir.Shape:
    return ir.Shape(tensor.shape.numpy())


def insert_before(node: ir.Node, new: ir.Node | Iterable[ir.Node]) -> None:
    """Put ``new`` into ``node``'s graph, directly before it and in the order given."""
    _graph_of(node).insert_before(node, new)


def insert_after(node: ir.Node, new: ir.Node | Iterable[ir.Node]) -> None:
    """Put ``new`` into ``node``'s graph, directly after it and in the order given."""
    _graph_of(node).insert_after(node, new)


def insert_after_value(value: ir.Value, new: ir.Node | Iterable[ir.Node]) -> None:
    """Put ``new`` where ``value`` first exists: after its producer, or first in the graph that owns it.

    Raises:
        ModelError: The value belongs to no graph.
    """
    producer = value.producer()
    if producer is not None:
        insert_after(producer, new)
        return
    if value.graph is None:
        raise ModelError(f"cannot insert after value {value.name!r}: it is in no graph. Add it to one first.")
    insert_first(value.graph, new)


def insert_first(graph: ir.Graph, new: ir.Node | Iterable[ir.Node]) -> None:
    """Put ``new`` before all nodes of ``graph``, in the order given."""
    if len(graph):
        graph.insert_before(graph[0], new)
    else:
        graph.extend([new] if isinstance(new, ir.Node) else new)


def _graph_of(node: ir.Node) -> ir.Graph:
    graph = node.graph
    if not isinstance(graph, ir.Graph):
        raise ModelError(
            f"cannot insert at node {node.name!r}: it is in no graph. Insert at a node of the model.",
            node=node.name,
        )
    return graph


def replace_uses(old: ir.Value, new: ir.Value, names: NameAllocator, *, keep: Collection[ir.Node] = ()) -> None:
    """Make every reader of ``old`` read ``new``: nodes, nodes in subgraphs that capture it, graph outputs.

    A graph output keeps its name: ``new`` takes it over and ``old`` gets a fresh one. Where ``new`` cannot
    (it is a graph input, an initializer, itself a graph output, or lives in another graph), an Identity with
    that name is added.

    Args:
        old: The value to leave; it stays in the graph, without readers but those in ``keep``.
        new: The value to read instead.
        names: Where the fresh names come from.
        keep: Nodes that go on reading ``old``: the ones that compute ``new`` from it.
    """
    for node, index in old.uses():
        if node not in keep:
            node.replace_input_with(index, new)
    if old.is_graph_output():
        _replace_output(old, new, names)


def _replace_output(old: ir.Value, new: ir.Value, names: NameAllocator) -> None:
    graph, name = old.graph, old.name
    if graph is None or name is None:  # pragma: no cover - a graph output has both
        raise ModelError(f"graph output {name!r} is in no graph or has no name")
    if old.is_graph_input() or old.is_initializer():
        raise ModelError(
            f"cannot replace graph output {name!r}: it is also an input or initializer, whose name must stay. "
            "Put an Identity between them first."
        )
    if new.is_graph_input() or new.is_initializer() or new.is_graph_output() or new.graph is not graph:
        identity = make_node(names, "Identity", [new], name=f"{name}_identity")
        graph.append(identity)
        new = identity.outputs[0]
    old.name = names.unique(f"{name}_replaced")
    new.name = name
    # The declared type is the output's contract; what produces it now may not have one yet.
    new.type, new.shape = new.type or old.type, new.shape or old.shape
    for position, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[position] = new


def remove_node(node: ir.Node) -> None:
    """Take ``node`` out of its graph; nothing may read its outputs any more.

    Raises:
        ModelError: An output is still read, or is a graph output.
    """
    if not _is_dead(node):
        raise _still_read(node)
    _detach(node)
    _graph_of(node).remove(node)


def replace_node(node: ir.Node, new: Sequence[ir.Node], names: NameAllocator) -> None:
    """Put ``new``, in order, in the place of ``node``, whose first output the last one's first output replaces.

    That takes over type and shape, and the first of ``new`` the node's name: it is what a pattern of the user's means.

    Raises:
        ModelError: Something reads another output of ``node``.
    """
    old, result = node.outputs[0], new[-1].outputs[0]
    result.type, result.shape = old.type, old.shape
    insert_before(node, new)
    replace_uses(old, result, names)
    remove_node(node)
    new[0].name = node.name


def remove_nodes(nodes: Collection[ir.Node]) -> None:
    """Take ``nodes`` out of their graphs; nothing but themselves may read their outputs.

    Raises:
        ModelError: An output is read by another node, or is a graph output; nothing is removed.
    """
    leaving = set(nodes)
    for node in nodes:
        readers = {reader for output in node.outputs for reader in output.consumers()}
        if not readers <= leaving or any(output.is_graph_output() for output in node.outputs):
            raise _still_read(node)
    for node in nodes:
        _detach(node)
    for node in nodes:
        _graph_of(node).remove(node)


def _still_read(node: ir.Node) -> ModelError:
    return ModelError(
        f"cannot remove node {node.name!r} ({node.op_type}): its outputs are still read. Replace their uses first.",
        node=node.name,
    )


def remove_dead(model: ir.Model) -> int:
    """Remove nodes whose outputs nobody reads and initializers without readers; return how many nodes went.

    Graph inputs stay, also those with an initializer: they are the model's signature.
    """
    roots = [model.graph, *(function.graph for function in model.functions.values())]
    removed = sum(_remove_dead_nodes(graph) for graph in roots)
    for graph in walk.graphs(model):
        for value in list(graph.initializers.values()):
            if not (value.uses() or value.is_graph_input() or value.is_graph_output()):
                del graph.initializers[value.name]  # type: ignore[arg-type]  # initializers are named
    return removed


def _remove_dead_nodes(graph: ir.Graph) -> int:
    """One pass from the end: a node's readers, in later nodes or their bodies, are settled before it."""
    dead: list[ir.Node] = []
    removed = 0
    for node in reversed(graph):
        if _is_dead(node):
            _detach(node)
            dead.append(node)
        else:
            removed += sum(_remove_dead_nodes(body) for body in walk.subgraphs(node))
    graph.remove(dead)
    return removed + len(dead)


def _is_dead(node: ir.Node) -> bool:
    return not any(output.is_graph_output() or output.uses() for output in node.outputs)


def _detach(node: ir.Node) -> None:
    """Let go of all that ``node`` reads, and all that the bodies inside it capture."""
    inner = [one for body in walk.subgraphs(node) for graph in walk.nested_graphs(body) for one in graph]
    for reader in (node, *inner):
        for index in range(len(reader.inputs)):
            reader.replace_input_with(index, None)


def free_negative_sizes(model: ir.Model) -> None:
    """Make sizes below zero unknown ones: ONNX has none, programs write -1, and ONNX Runtime takes any size there."""
    for value in walk.values(model):
        sizes = [None if isinstance(size, int) and size < 0 else size for size in value.shape or ()]
        if any(size is None for size in sizes):
            value.shape = ir.Shape(sizes)
