"""What programs do to the graph of a ModelProto: order it, tidy it, take its Gemms apart."""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence

import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

from vqonnx.errors import ModelError

_GEMM_DEFAULTS = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies in a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def nested_graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """``graph`` and every body inside it."""
    yield graph
    for node in graph.node:
        for body in subgraphs(node):
            yield from nested_graphs(body)


def captured(graph: GraphProto) -> Iterator[str]:
    """Names that ``graph`` reads, by a node or as an output, and does not define; a name comes once a read."""
    own = {value.name for value in (*graph.input, *graph.initializer)}
    own.update(name for node in graph.node for name in node.output)
    read = (name for node in graph.node for name in reads(node))
    yield from (name for name in (*read, *(output.name for output in graph.output)) if name not in own)


def reads(node: NodeProto) -> Iterator[str]:
    """Names of the values that a node needs, those that its bodies capture included."""
    yield from (name for name in node.input if name)
    for body in subgraphs(node):
        yield from captured(body)


def sort_nodes(graph: GraphProto) -> None:
    """Put every node behind those that it reads from, breadth first, in place.

    Raises:
        ModelError: There is a cycle.
    """
    nodes = list(graph.node)
    makers = {name for node in nodes for name in node.output if name}
    waiting: dict[str, list[int]] = defaultdict(list)
    missing = []
    for index, node in enumerate(nodes):
        needed = [name for name in reads(node) if name in makers]
        missing.append(len(needed))
        for name in needed:
            waiting[name].append(index)
    ready = deque(index for index, count in enumerate(missing) if not count)
    places: dict[int, int] = {}
    while ready:
        index = ready.popleft()
        places[id(nodes[index])] = len(places)
        for name in nodes[index].output:
            for reader in waiting[name] if name else ():
                missing[reader] -= 1
                if not missing[reader]:
                    ready.append(reader)
    if len(places) < len(nodes):
        stuck = next(node for node in nodes if id(node) not in places)
        raise ModelError(f"graph {graph.name!r} has a cycle through node {stuck.name!r}; a model must not.")
    graph.node.sort(key=lambda node: places[id(node)])


def drop_unused_initializers(graph: GraphProto) -> set[str]:
    """Remove the initializers that nothing reads, bodies included, with the inputs of their names.

    Returns:
        Names that ``graph`` reads and nothing in it makes.
    """
    for node in graph.node:
        for body in subgraphs(node):
            drop_unused_initializers(body)
    read = {name for node in graph.node for name in reads(node)} | {output.name for output in graph.output}
    unused = {tensor.name for tensor in graph.initializer} - read
    for values in (graph.initializer, graph.input):
        _keep(values, [value for value in values if value.name not in unused])
    return set(captured(graph))


def _keep(values: "Iterable[TensorProto | onnx.ValueInfoProto]", kept: Sequence[object]) -> None:
    keep = {id(value) for value in kept}
    for index, value in reversed(list(enumerate(values))):
        if id(value) not in keep:
            del values[index]  # type: ignore[attr-defined]


def gemms_to_matmuls(graph: GraphProto) -> None:
    """Turn each Gemm with alpha = beta = 1 and without transA into MatMul, and Add where it has a bias; in place.

    A constant weight is transposed where transB asks for it: in its place when nothing else reads it, else in a copy.
    """
    _GemmSplitter(graph).split(graph, (graph,))


class _GemmSplitter:
    """The names that are taken, and who reads what."""

    def __init__(self, graph: GraphProto) -> None:
        bodies = list(nested_graphs(graph))
        self._uses = Counter(name for body in bodies for node in body.node for name in node.input)
        self._uses.update(output.name for body in bodies for output in body.output)
        self._taken = {value.name for body in bodies for value in (*body.input, *body.initializer)}
        self._taken.update(name for body in bodies for node in body.node for name in node.output)
        self._copies: dict[tuple[int, str], str] = {}

    def split(self, graph: GraphProto, scopes: tuple[GraphProto, ...]) -> None:
        """Rewrite ``graph``, the last of ``scopes``, and the bodies inside it."""
        nodes: list[NodeProto] = []
        for node in graph.node:
            for body in subgraphs(node):
                self.split(body, (*scopes, body))
            nodes += self._parts(node, scopes) if node.op_type == "Gemm" else [node]
        if len(nodes) > len(graph.node) or any(node.op_type == "Gemm" for node in graph.node):
            copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
            graph.ClearField("node")
            graph.node.extend(copies)

    def _parts(self, node: NodeProto, scopes: tuple[GraphProto, ...]) -> list[NodeProto]:
        options = _GEMM_DEFAULTS | {one.name: helper.get_attribute_value(one) for one in node.attribute}
        if options["alpha"] != 1 or options["beta"] != 1 or options["transA"]:
            return [node]
        parts: list[NodeProto] = []
        weight = node.input[1]
        if options["transB"]:
            transposed = self._transposed_constant(weight, scopes)
            if transposed is None:
                transposed = self._unique(f"{weight}_Transposed")
                parts.append(
                    helper.make_node("Transpose", [weight], [transposed], _named(node, "Transpose"), perm=[1, 0])
                )
            weight = transposed
        has_bias = len(node.input) > 2 and bool(node.input[2])
        product = self._unique(f"{node.output[0]}_MatMul") if has_bias else node.output[0]
        parts.append(helper.make_node("MatMul", [node.input[0], weight], [product], _named(node, "MatMul")))
        if has_bias:
            parts.append(helper.make_node("Add", [product, node.input[2]], list(node.output), _named(node, "Add")))
        return parts

    def _transposed_constant(self, name: str, scopes: tuple[GraphProto, ...]) -> str | None:
        """The name of a constant's transpose; None where there is no constant whose data is at hand."""
        for scope in reversed(scopes):
            tensor = next((one for one in scope.initializer if one.name == name), None)
            if tensor is None:
                continue
            if tensor.data_location == TensorProto.EXTERNAL:
                return None
            if self._uses[name] == 1:
                _transpose_in_place(scope, tensor)
                return name
            return self._transposed_copy(scope, tensor)
        return None

    def _transposed_copy(self, scope: GraphProto, tensor: TensorProto) -> str:
        known = self._copies.get((id(scope), tensor.name))
        if known is None:
            known = self._copies[id(scope), tensor.name] = self._unique(f"{tensor.name}_Transposed")
            scope.initializer.append(numpy_helper.from_array(numpy_helper.to_array(tensor).T, known))
        return known

    def _unique(self, name: str) -> str:
        number, unique = 0, name
        while unique in self._taken:
            number += 1
            unique = f"{name}_{number}"
        self._taken.add(unique)
        return unique


def _transpose_in_place(graph: GraphProto, tensor: TensorProto) -> None:
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).T, tensor.name))
    _keep(graph.input, [value for value in graph.input if value.name != tensor.name])
    for info in graph.value_info:
        if info.name == tensor.name:
            info.CopyFrom(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))


def _named(node: NodeProto, part: str) -> str:
    return f"{node.name}_{part}" if node.name else ""
