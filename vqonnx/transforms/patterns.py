"""Small patterns of operators, written as they are computed and found backwards from their last node.

``onnx_ir`` has no rewriter, and those there are (onnxscript) weigh more than what is needed here: inputs that commute,
constants by value, alternatives, Casts in between, and the refusal of a match whose inside is read elsewhere.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from vqonnx.graph.edit import Attribute, insert_before, make_node, remove_nodes, replace_uses
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import FLOAT_TYPES, constant_tensor

_COMMUTES = frozenset({"Add", "Max", "Mul"})
_TOLERANCE = {ir.DataType.FLOAT16: 1e-3, ir.DataType.BFLOAT16: 1e-2}
_USUAL_TOLERANCE = 1e-4
"""Relative; exporters write sqrt(2) as 1.4142, and half precision holds three digits."""


@dataclass(frozen=True, eq=False, slots=True)
class Anything:
    """Any value: the same one wherever it stands, before or behind a Cast."""


@dataclass(frozen=True, eq=False, slots=True)
class Constant:
    """Any constant; an equal one wherever it stands."""


@dataclass(frozen=True, eq=False, slots=True)
class Number:
    """A constant of one element near ``value``."""

    value: float


@dataclass(frozen=True, eq=False, slots=True)
class Operator:
    """A node of the default domain whose first inputs match ``inputs``; its first output is meant."""

    op_type: str
    inputs: tuple["Pattern", ...]


@dataclass(frozen=True, eq=False, slots=True)
class Either:
    """The first of ``options`` that matches."""

    options: tuple["Pattern", ...]


Pattern: TypeAlias = Anything | Constant | Number | Operator | Either


def op(op_type: str, *inputs: Pattern) -> Operator:
    """A node; the inputs of Add, Max and Mul may come in either order."""
    return Operator(op_type, inputs)


def either(*options: Pattern) -> Either:
    """Any of ``options``; earlier ones are preferred."""
    return Either(options)


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """Where a pattern was found.

    Attributes:
        root: The last node, whose output the whole computes.
        values: What each part of the pattern stands for.
        nodes: The nodes that the pattern covers, the root first; a Cast between two of them is one too.
        constants: The constants that stand for Numbers and Constants.
    """

    root: ir.Node
    values: Mapping[Pattern, ir.Value]
    nodes: tuple[ir.Node, ...]
    constants: tuple[ir.Value, ...]

    def __getitem__(self, part: Pattern) -> ir.Value:
        return self.values[part]

    def __contains__(self, part: Pattern) -> bool:
        return part in self.values

    def node(self, part: Pattern) -> ir.Node:
        """The node that computes ``part``, behind Casts."""
        producer = _uncast(self.values[part])[0].producer()
        if producer is None:  # pragma: no cover - asked of operators
            raise TypeError(f"value {self.values[part].name!r} has no producer")
        return producer

    def source(self, part: Pattern) -> ir.Value:
        """The value for ``part``, before or behind a Cast: where it has the root's type, else as it was found."""
        found = self.values[part]
        before = _uncast(found)[0]
        return before if before.dtype == self.root.outputs[0].dtype != found.dtype else found

    def replace(
        self, op_type: str, inputs: Sequence[ir.Value], attributes: Mapping[str, Attribute], names: NameAllocator
    ) -> None:
        """Put one node of ``inputs``, all of one type, in the place of all that the pattern covers."""
        old = self.root.outputs[0]
        new = [make_node(names, op_type, inputs, attributes)]
        new[0].outputs[0].type, new[0].outputs[0].shape = inputs[0].type, old.shape
        if old.dtype is not None and inputs[0].dtype != old.dtype:
            new.append(make_node(names, "Cast", new[0].outputs, {"to": old.dtype}))
        result = new[-1].outputs[0]
        result.type, result.shape = old.type, old.shape
        insert_before(self.root, new)
        replace_uses(old, result, names)
        remove_nodes(self.nodes)
        new[0].name = self.root.name


def find(pattern: Pattern, root: ir.Node) -> Match | None:
    """The first way in which ``root`` is the last node of ``pattern``; None if there is none.

    Ways in which anything else reads a value inside, or in which the nodes stand in several graphs, do not count;
    nor do those where a constant's rank could raise the result's.
    """
    if not root.outputs:
        return None
    start = Match(root, {}, (), ())
    return next((found for found in _match(pattern, root.outputs[0], start) if _is_closed(found)), None)


def _is_closed(found: Match) -> bool:
    inside = set(found.nodes)
    if found.root not in inside or any(node.graph is not found.root.graph for node in inside):
        return False
    hidden = [output for node in inside if node is not found.root for output in node.outputs]
    if any(output.is_graph_output() or not inside.issuperset(output.consumers()) for output in hidden):
        return False
    result = found.root.outputs[0]
    return all(
        _rank(value) == 0 or (result.shape is not None and _rank(value) <= len(result.shape))
        for value in found.constants
    )


def _rank(value: ir.Value) -> int:
    tensor = constant_tensor(_uncast(value)[0])
    return 0 if tensor is None else len(tensor.shape)


def _match(pattern: Pattern, value: ir.Value | None, so_far: Match) -> Iterator[Match]:
    if value is None:
        return
    if isinstance(pattern, Either):
        for option in pattern.options:
            yield from _match(option, value, so_far)
        return
    bound = so_far.values.get(pattern)
    source, casts = _uncast(value)
    if bound is not None and _uncast(bound)[0] is source:
        inside = casts if isinstance(pattern, Operator) else ()
        yield replace(so_far, nodes=tuple(dict.fromkeys((*so_far.nodes, *inside))))
    elif isinstance(pattern, Operator):
        # Bound to another value, it may still be the same computed twice: exporters repeat means and differences.
        yield from _match_operator(pattern, value, so_far)
    elif _fits(pattern, value, bound):
        constants = so_far.constants if isinstance(pattern, Anything) else (*so_far.constants, value)
        yield replace(so_far, values={pattern: value, **so_far.values}, constants=constants)


def _match_operator(pattern: Operator, value: ir.Value, so_far: Match) -> Iterator[Match]:
    source, casts = _uncast(value)
    node = source.producer()
    if node is None or node.op_type != pattern.op_type or node.domain not in ("", "ai.onnx"):
        return
    if source is not node.outputs[0] or len(node.inputs) < len(pattern.inputs):
        return
    nodes = tuple(dict.fromkeys((*so_far.nodes, *casts, node)))
    known = replace(so_far, values={pattern: value, **so_far.values}, nodes=nodes)
    inputs = node.inputs[: len(pattern.inputs)]
    orders = itertools.permutations(inputs) if pattern.op_type in _COMMUTES else (inputs,)
    for order in dict.fromkeys(orders):
        yield from _match_all(pattern.inputs, order, known)


def _match_all(patterns: Sequence[Pattern], values: Sequence[ir.Value | None], so_far: Match) -> Iterator[Match]:
    if not patterns:
        yield so_far
        return
    for found in _match(patterns[0], values[0], so_far):
        yield from _match_all(patterns[1:], values[1:], found)


def _fits(pattern: Anything | Constant | Number, value: ir.Value, bound: ir.Value | None) -> bool:
    if isinstance(pattern, Anything):
        return bound is None
    tensor = constant_tensor(_uncast(value)[0])
    if tensor is None:
        return False
    if isinstance(pattern, Constant):
        return bound is None or _equal(tensor, constant_tensor(_uncast(bound)[0]))
    if tensor.size != 1 or tensor.dtype not in FLOAT_TYPES:
        return False
    tolerance = _TOLERANCE.get(tensor.dtype, _USUAL_TOLERANCE)
    return math.isclose(float(tensor.numpy().reshape(())), pattern.value, rel_tol=tolerance)


def _equal(one: ir.TensorProtocol, other: ir.TensorProtocol | None) -> bool:
    return other is not None and np.array_equal(one.numpy(), other.numpy())


def _uncast(value: ir.Value) -> tuple[ir.Value, tuple[ir.Node, ...]]:
    """The value before Casts between floating-point types, and these."""
    casts = []
    while (node := value.producer()) is not None and node.op_type == "Cast" and not node.domain:
        source = node.inputs[0]
        if source is None or not {source.dtype, value.dtype} <= FLOAT_TYPES:
            break
        casts.append(node)
        value = source
    return value, tuple(casts)
