"""The rules of a device at the nodes of a model, as constraints on positions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from vqonnx.core.positions import AlignRule, Operand, PositionNode, PositionRule, Shift, ShiftRule

Positions = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Constraint:
    """A shift rule at a node that has all the rule's operands."""

    rule: ShiftRule
    node: PositionNode

    def operand_keys(self) -> tuple[str, ...]:
        """The positions that the rule reads, each once."""
        operands = (*self.rule.plus, *self.rule.minus)
        if self.rule.allowance is not None:
            operands += (*self.rule.allowance.plus, *self.rule.allowance.minus)
        return tuple(dict.fromkeys(key for operand in operands for key in keys_of(self.node, operand)))

    def preferred(self, at: Positions) -> tuple[str, ...]:
        """The keys that the rule itself would move."""
        keys = keys_of(self.node, self.rule.moves)
        if self.rule.moves is Operand.LARGEST_INPUT:
            return (max(keys, key=lambda key: at[key]),)
        return keys

    def shift(self, at: Positions) -> Shift:
        """The value and its bounds."""
        rule = self.rule
        value = rule.offset + _difference(self.node, rule.plus, rule.minus, at)
        return Shift(rule.option, self.node.name, value, self._low(value, at), rule.high)

    def excess(self, at: Positions) -> int:
        """How far the value is out of its bounds; 0 where the rule holds.

        Where the smallest (largest) input is out, all inputs that are count, so that each step towards the bounds
        shows, whichever input makes it.
        """
        shift = self.shift(at)
        below = sum(max(0, shift.low - shift.value - way) for way in self._ways(Operand.SMALLEST_INPUT, at))
        if shift.high is None:
            return below
        return below + sum(max(0, shift.value + way - shift.high) for way in self._ways(Operand.LARGEST_INPUT, at))

    def _ways(self, extreme: Operand, at: Positions) -> list[int]:
        """How far each input is from the extreme one; (0,) for a rule that does not add that."""
        if extreme not in self.rule.plus:
            return [0]
        end = _value(self.node, extreme, at)
        return [at[key] - end for key in dict.fromkeys(self.node.inputs)]

    def _low(self, value: int, at: Positions) -> int:
        """The lower bound; lower by as much as the allowance has to spare."""
        allowance = self.rule.allowance
        if allowance is None:
            return self.rule.low
        spare = _difference(self.node, allowance.plus, allowance.minus, at) - allowance.low
        return min(self.rule.low, value - spare)


def constraints(
    nodes: Sequence[PositionNode], rules: Iterable[PositionRule], representative: Mapping[str, str]
) -> list[Constraint]:
    """The shift rules at every node that they hold for, in the order of the rules.

    Args:
        nodes: The nodes.
        rules: Those of them that are shift rules count.
        representative: The key that stands for each key.
    """
    resolved = [_resolved(node, representative) for node in nodes]
    found = (
        Constraint(rule, node)
        for rule in rules
        if isinstance(rule, ShiftRule)
        for node in resolved
        if node.kind in rule.kinds
    )
    return [one for one in found if _has(one.node, (*one.rule.plus, *one.rule.minus))]


def aligned(nodes: Iterable[PositionNode], rules: Iterable[PositionRule]) -> Iterator[tuple[AlignRule, PositionNode]]:
    """Each rule that demands one position, at every node that it holds for."""
    chosen = list(nodes)
    for rule in rules:
        if isinstance(rule, AlignRule):
            yield from ((rule, node) for node in chosen if node.kind in rule.kinds)


def spread(rule: AlignRule, node: PositionNode, at: Positions) -> Shift:
    """By how much the positions around an aligned node differ."""
    values = [at[key] for key in (*node.inputs, node.output)]
    return Shift(rule.option, node.name, max(values) - min(values), 0, 0)


def keys_of(node: PositionNode, operand: Operand) -> tuple[str, ...]:
    """The keys that an operand is made of; empty where the node does not have it."""
    single = {Operand.OUTPUT: node.output, Operand.WEIGHT: node.weight, Operand.BIAS: node.bias}
    if operand not in single:
        return node.inputs
    key = single[operand]
    return () if key is None else (key,)


def _has(node: PositionNode, operands: Iterable[Operand]) -> bool:
    return all(keys_of(node, operand) for operand in operands)


def _difference(node: PositionNode, plus: Iterable[Operand], minus: Iterable[Operand], at: Positions) -> int:
    return sum(_value(node, one, at) for one in plus) - sum(_value(node, one, at) for one in minus)


def _value(node: PositionNode, operand: Operand, at: Positions) -> int:
    values = [at[key] for key in keys_of(node, operand)]
    if operand is Operand.SMALLEST_INPUT:
        return min(values)
    return max(values) if operand is Operand.LARGEST_INPUT else sum(values)


def _resolved(node: PositionNode, representative: Mapping[str, str]) -> PositionNode:
    return replace(
        node,
        inputs=tuple(representative[key] for key in node.inputs),
        output=representative[node.output],
        weight=None if node.weight is None else representative[node.weight],
        bias=None if node.bias is None else representative[node.bias],
    )
