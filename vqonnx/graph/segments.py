"""Cut a graph into consecutive pieces that run one after the other, each a small model of its own."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from vqonnx.errors import ModelError
from vqonnx.graph.walk import constant_tensor, nested_graphs, subgraphs

_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


@dataclass(frozen=True, slots=True)
class Segment:
    """The nodes that some results need and no earlier result did.

    Attributes:
        results: The values that the segment is cut for, in graph order; graph inputs too.
        nodes: In graph order; "free" nodes may stand in several segments.
        inputs: Values of earlier segments and graph inputs that it reads.
        outputs: The results, and the values that later segments read.
    """

    results: tuple[ir.Value, ...]
    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]

    @property
    def node_names(self) -> set[str]:
        """The names of the nodes, and of those in their bodies."""
        return {one.name or "" for node in self.nodes for one in _with_bodies(node)}

    @property
    def constants(self) -> tuple[ir.Value, ...]:
        """The initializers that the nodes read, in their bodies too."""
        read = dict.fromkeys(_reads(self.nodes))
        return tuple(value for value in read if value.is_initializer() and value not in self.inputs)

    def model(self, source: ir.Model, extra_inputs: Sequence[ir.Value] = ()) -> ir.Model:
        """The segment as a model; ``extra_inputs`` names initializers that are fed instead."""
        view = ir.GraphView(
            [*self.inputs, *extra_inputs],
            self.outputs,
            nodes=self.nodes,
            initializers=[value for value in self.constants if value not in extra_inputs],
            opset_imports=source.graph.opset_imports,
            name="segment",
        )
        functions = list(source.functions.values())
        return ir.Model(view.clone(), ir_version=source.ir_version, functions=functions)


def segments(
    graph: ir.Graph, groups: Sequence[Sequence[ir.Value]], is_free: Callable[[ir.Node], bool]
) -> list[Segment]:
    """Cut ``graph`` behind each group of results; groups and their members are given in graph order.

    Every node is in the segment of the first group that needs it, but for "free" nodes, which are repeated in each
    segment that reads them, so that their input crosses the cut and not their output. Linear in the graph.
    """
    position = {node: index for index, node in enumerate(graph)}
    owner: dict[ir.Node, int] = {}
    parts: list[list[ir.Node]] = []
    for index, results in enumerate(groups):
        new = _needed(results, owner, is_free)
        owner.update((node, index) for node in new if not is_free(node))
        parts.append(sorted(new, key=position.__getitem__))
    return _joined(parts, groups)


def read_later(cut: Sequence[Segment]) -> list[set[ir.Value]]:
    """For each segment what is there when it has run and a segment behind it reads, graph inputs included."""
    later: list[set[ir.Value]] = [set()]
    for segment in reversed(cut[1:]):
        later.append((later[-1] - set(segment.outputs)) | set(segment.inputs))
    return later[::-1]


def constant_nodes(graph: ir.Graph) -> set[ir.Node]:
    """The nodes of ``graph`` itself whose outputs no input of the model can change, Constant nodes included."""
    found: set[ir.Node] = set()
    for node in graph:
        if any(one.op_type in _RANDOM for one in _with_bodies(node)):
            continue
        if all(value.producer() in found or _is_constant(value) for value in _reads([node])):
            found.add(node)
    return found


def around(source: ir.Model, starts: Sequence[ir.Value], ends: Sequence[ir.Value]) -> ir.Model:
    """The nodes that lead from ``starts`` to ``ends``, in whatever graph they are, as a model of their own.

    Its inputs and outputs have types, but no shapes: a smaller batch may be fed than the whole model takes.

    Args:
        source: The model.
        starts: What becomes the inputs.
        ends: What becomes the outputs; all of one graph.

    Raises:
        ModelError: An end needs more than ``starts`` and constants.
    """
    nodes = _needed(ends, {}, lambda node: False, until=starts)
    graph = ends[0].graph
    position = {node: index for index, node in enumerate(graph if graph is not None else ())}
    part = tuple(sorted(nodes, key=position.__getitem__))
    others = [value.name for value in _outer_reads(part, ()) if value not in starts]
    if others:
        from_, to = (" and ".join(repr(value.name) for value in values) for values in (starts, ends))
        raise ModelError(f"{to} does not follow from {from_} alone: it needs {others[0]!r} too.")
    model = Segment(tuple(ends), part, tuple(starts), tuple(ends)).model(source)
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = None
    return model


def _needed(
    results: Sequence[ir.Value],
    owner: dict[ir.Node, int],
    is_free: Callable[[ir.Node], bool],
    until: Collection[ir.Value] = (),
) -> list[ir.Node]:
    """The nodes that compute ``results``, from ``until`` where that is given, and are in no segment yet."""
    found: dict[ir.Node, None] = {}
    pending = list(results)
    while pending:
        value = pending.pop()
        node = None if value in until else value.producer()
        if node is None or node in found or (node in owner and not is_free(node)):
            continue
        found[node] = None
        pending.extend(_reads([node]))
    return list(found)


def _joined(parts: Sequence[Sequence[ir.Node]], groups: Sequence[Sequence[ir.Value]]) -> list[Segment]:
    inputs = [_outer_reads(part, results) for part, results in zip(parts, groups, strict=True)]
    wanted_later: set[ir.Value] = set()
    joined: list[Segment] = []
    for part, reads, results in reversed(list(zip(parts, inputs, groups, strict=True))):
        kept = wanted_later.difference(results)
        made = [value for node in part for value in node.outputs if value in kept]
        joined.append(Segment(tuple(results), tuple(part), reads, (*results, *made)))
        wanted_later.update(reads)
    return joined[::-1]


def _outer_reads(nodes: Sequence[ir.Node], results: Sequence[ir.Value]) -> tuple[ir.Value, ...]:
    """What the nodes read that is neither constant nor made by one of them, and results that none makes; each once."""
    inside = set(nodes)
    outer = (v for v in (*_reads(nodes), *results) if v.producer() not in inside and not _is_constant(v))
    return tuple(dict.fromkeys(outer))


def _is_constant(value: ir.Value) -> bool:
    if value.producer() is None:
        return value.is_initializer() and not value.is_graph_input()  # strings too, which have no array
    return constant_tensor(value) is not None


def _with_bodies(node: ir.Node) -> Iterator[ir.Node]:
    yield node
    for body in subgraphs(node):
        yield from body.all_nodes()


def _reads(nodes: Sequence[ir.Node]) -> Iterator[ir.Value]:
    """What the nodes read, in their bodies too, without the bodies' own values."""
    for node in nodes:
        yield from (value for value in node.inputs if value is not None)
        for body in subgraphs(node):
            own = set(nested_graphs(body))
            for inner in body.all_nodes():
                yield from (v for v in inner.inputs if v is not None and v.graph not in own)
