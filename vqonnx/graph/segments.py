"""Cut a graph into consecutive pieces that run one after the other, each a small model of its own."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from vqonnx.errors import ModelError
from vqonnx.graph.walk import constant_tensor, nested_graphs, subgraphs


@dataclass(frozen=True, slots=True)
class Segment:
    """The nodes that one result needs and no earlier result did.

    Attributes:
        result: The value that the segment is cut for.
        nodes: In graph order; "free" nodes may stand in several segments.
        inputs: Values of earlier segments and graph inputs that it reads.
        outputs: The result, and the values that later segments read.
    """

    result: ir.Value
    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]

    def model(self, source: ir.Model, extra_inputs: Sequence[ir.Value] = ()) -> ir.Model:
        """The segment as a model; ``extra_inputs`` names initializers that are fed instead."""
        fed = {*self.inputs, *extra_inputs}
        constants = {v: None for v in _reads(self.nodes) if v not in fed and v.is_initializer()}
        view = ir.GraphView(
            [*self.inputs, *extra_inputs],
            self.outputs,
            nodes=self.nodes,
            initializers=tuple(constants),
            opset_imports=source.graph.opset_imports,
            name="segment",
        )
        functions = list(source.functions.values())
        return ir.Model(view.clone(), ir_version=source.ir_version, functions=functions)


def segments(graph: ir.Graph, results: Sequence[ir.Value], is_free: Callable[[ir.Node], bool]) -> list[Segment]:
    """Cut ``graph`` at ``results``, given in graph order.

    Every node is in the segment of the first result that needs it, but for "free" nodes, which are repeated in each
    segment that reads them, so that their input crosses the cut and not their output. Linear in the graph.
    """
    position = {node: index for index, node in enumerate(graph)}
    owner: dict[ir.Node, int] = {}
    parts: list[list[ir.Node]] = []
    for index, result in enumerate(results):
        new = _needed(result, owner, is_free)
        owner.update((node, index) for node in new if not is_free(node))
        parts.append(sorted(new, key=position.__getitem__))
    return _joined(parts, results)


def between(source: ir.Model, start: ir.Value, end: ir.Value) -> ir.Model:
    """The nodes that lead from ``start`` to ``end``, in whatever graph they are, as a model of their own.

    Its input and output have types, but no shapes: a smaller batch may be fed than the whole model takes.

    Raises:
        ModelError: ``end`` needs more than ``start`` and constants.
    """
    nodes = _needed(end, {}, lambda node: False, until=start)
    graph = end.graph
    position = {node: index for index, node in enumerate(graph if graph is not None else ())}
    part = tuple(sorted(nodes, key=position.__getitem__))
    others = [value.name for value in _outer_reads(part) if value is not start]
    if others:
        raise ModelError(f"{end.name!r} does not follow from {start.name!r} alone: it needs {others[0]!r} too.")
    model = Segment(end, part, (start,), (end,)).model(source)
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = None
    return model


def _needed(
    result: ir.Value,
    owner: dict[ir.Node, int],
    is_free: Callable[[ir.Node], bool],
    until: ir.Value | None = None,
) -> list[ir.Node]:
    """The nodes that compute ``result``, from ``until`` where that is given, and are in no segment yet."""
    found: dict[ir.Node, None] = {}
    pending = [result]
    while pending:
        value = pending.pop()
        node = None if value is until else value.producer()
        if node is None or node in found or (node in owner and not is_free(node)):
            continue
        found[node] = None
        pending.extend(_reads([node]))
    return list(found)


def _joined(parts: Sequence[Sequence[ir.Node]], results: Sequence[ir.Value]) -> list[Segment]:
    inputs = [_outer_reads(part) for part in parts]
    wanted_later: set[ir.Value] = set()
    joined: list[Segment] = []
    for part, reads, result in reversed(list(zip(parts, inputs, results, strict=True))):
        made = [value for node in part for value in node.outputs if value in wanted_later and value is not result]
        joined.append(Segment(result, tuple(part), reads, (result, *made)))
        wanted_later.update(reads)
    return joined[::-1]


def _outer_reads(nodes: Sequence[ir.Node]) -> tuple[ir.Value, ...]:
    """What the nodes read that is neither constant nor made by one of them, each once."""
    inside = set(nodes)
    outer = (v for v in _reads(nodes) if v.producer() not in inside and constant_tensor(v) is None)
    return tuple(dict.fromkeys(outer))


def _reads(nodes: Sequence[ir.Node]) -> Iterator[ir.Value]:
    """What the nodes read, in their bodies too, without the bodies' own values."""
    for node in nodes:
        yield from (value for value in node.inputs if value is not None)
        for body in subgraphs(node):
            own = set(nested_graphs(body))
            for inner in body.all_nodes():
                yield from (v for v in inner.inputs if v is not None and v.graph not in own)
