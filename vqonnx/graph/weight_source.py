"""Constants behind chains of reshapes, casts and dequantizations: found without being read, read when asked for."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from vqonnx.graph.dequantization import dequantized
from vqonnx.graph.evaluation import RULES, Outcome, Rule, constant_inputs
from vqonnx.graph.walk import constant_tensor, release

Ints: TypeAlias = tuple[int, ...]

_DEFAULT_DOMAINS = ("", "ai.onnx")
_VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
_SCALED = frozenset({"Div", "Mul"})


@dataclass(frozen=True, slots=True, eq=False)
class WeightSource:
    """A constant that a node reads, perhaps through other nodes.

    Attributes:
        value: What the node reads.
        root: The constant that all of it is made from: an initializer or the output of a Constant node.
        stored: The root's tensor.
        tensor: Type and shape of ``value``, and its numbers at each call of ``numpy()``; nothing computed is kept.
        strides: Of each axis the distance of neighbours in the root, in elements.
        in_root: Whether ``strides`` count in the root; in ``value`` itself where the way there does more than turn and
            convert each number by itself.
        arithmetic: What was done to the numbers, in order. Sources of one root, strides and arithmetic are equal.
        dequantized: Whether a DequantizeLinear is on the way.
    """

    value: ir.Value
    root: ir.Value
    stored: ir.TensorProtocol
    tensor: ir.TensorProtocol
    strides: Ints
    in_root: bool = True
    arithmetic: tuple[Hashable, ...] = ()
    dequantized: bool = False

    @property
    def dtype(self) -> ir.DataType:
        """Element type of what the node reads."""
        return self.tensor.dtype

    @property
    def shape(self) -> Ints:
        """Shape of what the node reads."""
        return tuple(self.tensor.shape.numpy())

    @property
    def nbytes(self) -> int:
        """Bytes of what the node reads."""
        return self.tensor.nbytes

    def read(self) -> np.ndarray:
        """The numbers, as a read-only map of the file where they lie in one and need no arithmetic.

        A map of data that is not aligned to the element type is copied, since compiled kernels cannot read it.
        """
        return np.require(self.tensor.numpy(), requirements="A")

    def read_root(self) -> np.ndarray:
        """The numbers of the root, in its own type and shape; mapped where they lie in a file."""
        return np.require(self.stored.numpy(), requirements="A")

    def release(self) -> None:
        """Let go of the map of a file (``walk.release``)."""
        release(self.stored)


class WeightSources:
    """Finds the constants of a model; each value is looked at once, however many nodes read it.

    Followed are Identity, Cast, Transpose, Reshape, Flatten, Squeeze, Unsqueeze, Mul and Div by a constant of one
    element, DequantizeLinear (ONNX's and com.microsoft's). An attribute that refers to one of a function's makes no
    constant, nor does an initializer that is a graph input too.
    """

    def __init__(self) -> None:
        self._found: dict[ir.Value, WeightSource | None] = {}

    def of(self, value: ir.Value | None) -> WeightSource | None:
        """What ``value`` is made from, or None if a run could change it; no large tensor is read."""
        chain = []
        while value is not None and value not in self._found:
            chain.append(value)
            value = behind(value)
        source = self._found[value] if value is not None else None
        for link in reversed(chain):
            tensor = constant_tensor(link)
            source = (
                _through(link, source) if tensor is None else WeightSource(link, link, tensor, tensor, _packed(tensor))
            )
            self._found[link] = source
        return source


def behind(value: ir.Value) -> ir.Value | None:
    """The input that ``value`` is another form of; None if it is a constant or comes from any other operator."""
    node = value.producer()
    if node is None or constant_tensor(value) is not None or any(a.is_ref() for a in node.attributes.values()):
        return None
    return None if rule_of(node) is None else next(iter(_data(node)), None)


def rule_of(node: ir.Node) -> Rule | None:
    """How a node that may stand between a constant and its reader computes; None for all other operators."""
    if node.op_type == "DequantizeLinear" and node.domain in (*_DEFAULT_DOMAINS, "com.microsoft"):
        return dequantized
    if node.domain not in _DEFAULT_DOMAINS or not (node.op_type in _VIEWS | _SCALED or node.op_type == "Cast"):
        return None
    return RULES[node.op_type]


def _data(node: ir.Node) -> Iterator[ir.Value]:
    """The input that carries the weight: the first, or the one beside a constant of one element."""
    if node.op_type not in _SCALED:
        yield from node.inputs[:1]  # type: ignore[misc]  # never absent
        return
    left, right = node.inputs
    if _is_single(right):
        yield left  # type: ignore[misc]
    elif node.op_type == "Mul" and _is_single(left):
        yield right  # type: ignore[misc]


def _is_single(value: ir.Value | None) -> bool:
    tensor = constant_tensor(value)
    return tensor is not None and tensor.size == 1


def _through(value: ir.Value, source: WeightSource | None) -> WeightSource | None:
    """``source`` as it is behind the node that makes ``value``."""
    node = value.producer()
    rule = None if node is None else rule_of(node)
    if source is None or node is None or rule is None:
        return None
    inputs = [
        source.tensor if read is source.value else known
        for read, known in zip(node.inputs, constant_inputs(node), strict=True)
    ]
    outcome = rule(node, inputs)
    if outcome is None:
        return None
    made = replace(source, value=value, tensor=_lazy(outcome))
    if node.op_type in _VIEWS:
        return _viewed(made, node, source)
    return _computed(made, node, source)


def _lazy(outcome: Outcome) -> ir.LazyTensor:
    shape = ir.Shape(outcome.shape)
    return ir.LazyTensor(
        lambda: ir.Tensor(outcome.compute(), dtype=outcome.dtype, shape=shape), dtype=outcome.dtype, shape=shape
    )


def _viewed(made: WeightSource, node: ir.Node, source: WeightSource) -> WeightSource:
    if node.op_type == "Transpose":
        attribute = node.attributes.get("perm")
        perm = reversed(range(len(source.shape))) if attribute is None else attribute.as_ints()
        return replace(made, strides=tuple(source.strides[axis] for axis in perm))
    strides = _reshaped(source.shape, source.strides, made.shape)
    return _apart(made) if strides is None else replace(made, strides=strides)


def _computed(made: WeightSource, node: ir.Node, source: WeightSource) -> WeightSource:
    """``made`` with a mark of what the node does to each number; equal marks, equal results."""
    others = [value for value in node.inputs if value is not source.value]
    if node.op_type == "DequantizeLinear":
        # Scales belong to places, so the order in which the codes lie is part of what is computed.
        form = sorted((name, attribute.value) for name, attribute in node.attributes.items())
        mark: Hashable = (node.op_type, *others, *form, source.shape, source.strides)
        done = (*source.arithmetic, mark)
        return replace(made, strides=_packed(made.tensor), in_root=False, arithmetic=done, dequantized=True)
    if len(made.shape) != len(source.shape):  # a factor of shape [1, 1, 1] adds axes
        return _apart(made)
    factors = [tensor.numpy().tobytes() for tensor in map(constant_tensor, others) if tensor is not None]
    return replace(made, arithmetic=(*source.arithmetic, (node.op_type, made.dtype, *factors)))


def _apart(made: WeightSource) -> WeightSource:
    """``made`` as a thing of its own, equal to no other."""
    return replace(made, strides=_packed(made.tensor), in_root=False, arithmetic=(made.value,))


def _packed(tensor: ir.TensorProtocol) -> Ints:
    return packed_strides(tensor.shape.numpy())


def packed_strides(shape: Sequence[int]) -> Ints:
    """Strides, in elements, of an array whose last axis is densest and which has no gaps."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def _reshaped(shape: Ints, strides: Ints, new: Ints) -> Ints | None:
    """Strides of the array in a new shape; None where it could not be a view."""
    long = [(size, stride) for size, stride in zip(shape, strides, strict=True) if size != 1]
    if [size for size, _ in long] == [size for size in new if size != 1]:
        kept = iter(stride for _, stride in long)
        return tuple(1 if size == 1 else next(kept) for size in new)
    dense = tuple(stride for _, stride in long) == packed_strides([size for size, _ in long])
    return packed_strides(new) if dense else None
