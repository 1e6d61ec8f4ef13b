"""Tensors joined by Add between Convs, and how to scale their channels without changing what the model computes."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vqonnx.graph.facts import int_attribute
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import FLOAT_TYPES, constant_tensor
from vqonnx.transforms.linear import Linear, as_linear
from vqonnx.transforms.weights import F64, float_constant, set_constant, stored

_JOINS = frozenset({"Add", "Sum"})


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """Tensors that must all be scaled alike, from the Convs that begin them to those that end them.

    Attributes:
        tensors: Every tensor of the stream, [N, C, ...].
        producers: Convs that compute one of them; nothing stands between.
        consumers: Convs that read one of them.
        channels: C.
    """

    tensors: tuple[ir.Value, ...]
    producers: tuple[ir.Node, ...]
    consumers: tuple[ir.Node, ...]
    channels: int

    @property
    def only_depthwise(self) -> bool:
        """Whether every reader has weights for one channel at a time."""
        return all(int_attribute(conv, "group", 1) == self.channels for conv in self.consumers)


def residual_streams(graph: ir.Graph) -> list[Stream]:
    """The linear streams of ``graph``, in the order of their first tensors.

    All tensors of a stream come from a Conv or from an Add (or Sum) of others, and are read by nothing but Convs and
    such Adds: no activation, no graph input or output, no constant operand, no reader in a body. The Convs have
    constant weights that nobody else reads (copies would grow the model), and give the same rank and number of
    channels: so no Add broadcasts channels, and what it may broadcast along other axes scaling does not see.
    """
    streams = (_as_stream(tensors, graph) for tensors in _joined(graph))
    return [stream for stream in streams if stream is not None]


def _joined(graph: ir.Graph) -> Iterable[list[ir.Value]]:
    """The outputs of Convs and Adds and what Adds read, in sets of those joined by Adds (union-find)."""
    parents: dict[ir.Value, ir.Value] = {}
    for node in graph:
        if _is(node, _JOINS | {"Conv"}):
            _root(parents, node.outputs[0])
        if _is(node, _JOINS):
            for value in filter(None, node.inputs):
                parents[_root(parents, value)] = _root(parents, node.outputs[0])
    joined: dict[ir.Value, list[ir.Value]] = {}
    for value in parents:
        joined.setdefault(_root(parents, value), []).append(value)
    return joined.values()


def _root(parents: dict[ir.Value, ir.Value], value: ir.Value) -> ir.Value:
    while parents.setdefault(value, value) is not value:
        parents[value] = value = parents[parents[value]]
    return value


def _is(node: ir.Node, operators: Iterable[str]) -> bool:
    return node.op_type in operators and not node.domain


def _as_stream(tensors: list[ir.Value], graph: ir.Graph) -> Stream | None:
    makers = [tensor.producer() for tensor in tensors]
    producers = [node for node in makers if node is not None and _is(node, {"Conv"})]
    reads = [read for tensor in tensors for read in tensor.uses()]
    consumers = [node for node, _ in reads if _is(node, {"Conv"})]
    if not producers or not consumers or any(tensor.is_graph_output() for tensor in tensors):
        return None
    if not all(node is not None and _is(node, _JOINS | {"Conv"}) for node in makers):
        return None
    if not all(node.graph is graph and _passes_on(node, index) for node, index in reads):
        return None
    if not all(_is_scalable(conv) for conv in (*producers, *consumers)):
        return None
    shapes = {(len(shape), shape[0]) for shape in map(_weight_shape, producers)}
    if len(shapes) != 1:
        return None
    ((_, channels),) = shapes
    return Stream(tuple(tensors), tuple(producers), tuple(dict.fromkeys(consumers)), channels)


def _passes_on(node: ir.Node, index: int) -> bool:
    """Whether a scale of input ``index`` ends or goes on in ``node``."""
    return _is(node, _JOINS) or (_is(node, {"Conv"}) and index == 0)


def _is_scalable(conv: ir.Node) -> bool:
    """Whether weight and bias are constant floats; the weight is not empty and this node's own."""
    constants = [(value, constant_tensor(value)) for value in conv.inputs[1:3] if value is not None]
    if not constants or any(tensor is None or tensor.dtype not in FLOAT_TYPES for _, tensor in constants):
        return False
    weight = constants[0][0]
    return len(weight.uses()) == 1 and not weight.is_graph_output() and as_linear(conv) is not None


def _linear(conv: ir.Node) -> Linear:
    linear = as_linear(conv)
    if linear is None:  # pragma: no cover - _is_scalable looked
        raise TypeError(f"the weight or bias of {conv.name!r} is not constant")
    return linear


def _weight_shape(conv: ir.Node) -> tuple[int, ...]:
    return tuple(_weight(conv).shape.numpy())


def _weight(conv: ir.Node) -> ir.TensorProtocol:
    tensor = constant_tensor(conv.inputs[1])
    if tensor is None:  # pragma: no cover - _is_scalable looked
        raise TypeError(f"the weight of {conv.name!r} is not constant")
    return tensor


def scale_stream(stream: Stream, factors: F64, names: NameAllocator) -> bool:
    """Multiply channel c of every tensor by ``factors[c]``, and divide what the readers do with it.

    Outputs stay as they are up to rounding; to the last bit with powers of two, short of underflow.

    Args:
        stream: Of the graph that is changed; it stays valid.
        factors: [C], > 0.
        names: Where names come from; a bias that others read is copied.

    Returns:
        False, and nothing is changed, where a number would overflow in the weight's type.
    """
    changes: list[tuple[ir.Node, int, np.ndarray]] = []
    for conv in dict.fromkeys((*stream.producers, *stream.consumers)):
        outputs = factors if conv in stream.producers else None
        inputs = factors if conv in stream.consumers else None
        weight = stored(_linear(conv).rescaled(outputs=outputs, inputs=inputs), _weight(conv).dtype)
        if weight is None:
            return False
        changes.append((conv, 1, weight))
        bias = float_constant(conv.inputs[2]) if len(conv.inputs) > 2 else None
        if outputs is not None and bias is not None:
            shifted = stored(bias * outputs, _weight(conv).dtype)
            if shifted is None:
                return False
            changes.append((conv, 2, shifted))
    for conv, index, numbers in changes:
        set_constant(conv, index, numbers, names, f"{conv.name}_scaled")
    return True


def weight_of(conv: ir.Node) -> F64:
    """The weight of a stream's Conv, [M, C / groups, ...], as an array of our own."""
    return np.array(_weight(conv).numpy(), dtype=np.float64)
