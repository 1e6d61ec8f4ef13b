"""Which product stands nearest to the outputs of a model."""

from collections.abc import Collection, Iterator

import onnx_ir as ir

from vqonnx.graph.walk import nested_graphs, subgraphs


def last_products(graph: ir.Graph, products: Collection[ir.Node]) -> list[ir.Node]:
    """The last of ``products``, in graph order, from which an output is reached but no other of them.

    So a projection whose result is an output and goes on to further layers (a cache of keys) is none. Where the last
    one stands in the bodies of an If, a Loop or a Scan, it is the last one of each body.
    """
    holder = {body: node for outer in nested_graphs(graph) for node in outer for body in subgraphs(node)}
    inside = {node for product in products for node in _enclosing(product, holder)}
    last = _last(graph, holder, inside)
    if last is None or last in products:
        return [] if last is None else [last]
    return [node for body in subgraphs(last) for node in last_products(body, products)]


def _enclosing(node: ir.Node, holder: dict[ir.Graph, ir.Node]) -> Iterator[ir.Node]:
    """``node``, the node whose body it is in, and so on outwards."""
    outer: ir.Node | None = node
    while outer is not None:
        yield outer
        outer = holder.get(outer.graph)  # type: ignore[arg-type]  # functions hold no layers


def _last(graph: ir.Graph, holder: dict[ir.Graph, ir.Node], inside: Collection[ir.Node]) -> ir.Node | None:
    reaches_output: set[ir.Node] = set()
    reaches_product: set[ir.Node] = set()
    for node in reversed(graph):
        readers = [outer for value in node.outputs for outer in _readers(value, graph, holder)]
        if any(value.is_graph_output() for value in node.outputs) or not reaches_output.isdisjoint(readers):
            reaches_output.add(node)
        if any(reader in inside or reader in reaches_product for reader in readers):
            reaches_product.add(node)
        elif node in inside and node in reaches_output:
            return node
    return None


def _readers(value: ir.Value, graph: ir.Graph, holder: dict[ir.Graph, ir.Node]) -> Iterator[ir.Node]:
    """The nodes of ``graph`` that read ``value``, themselves or in a body."""
    for consumer in value.consumers():
        yield from (node for node in _enclosing(consumer, holder) if node.graph is graph)
