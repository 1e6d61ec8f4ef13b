"""Positions, -log2 of power-of-two scales, and what a fixed-point device demands of those around one node.

Values only: the rules of a device are a table in ``targets/``, ``planning/refine.py`` moves positions until they hold.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class NodeKind(Enum):
    """What a node is to the rules."""

    PRODUCT = "product with a constant weight"
    LEAKY_PRODUCT = "product before a LeakyRelu"
    ADD = "sum"
    SUB = "difference"
    MUL = "elementwise product"
    SWISH = "x * hard sigmoid of x"
    HARD_SIGMOID = "hard sigmoid"
    CONCAT = "concatenation"
    POOL = "pooling"
    PAD = "padding"
    SLICE = "slice"
    TRANSPOSE = "transposition"
    RESHAPE = "new shape"


class Operand(Enum):
    """A term of a rule: one position of a node, or one made of several."""

    INPUTS = "sum of the inputs'"
    SMALLEST_INPUT = "the inputs' smallest"
    LARGEST_INPUT = "the inputs' largest"
    OUTPUT = "the output's"
    WEIGHT = "the weight's"
    BIAS = "the bias's"


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionNode:
    """A node and the keys of its positions; tensors that share a scale share a key.

    Attributes:
        name: Its name.
        kind: What it is.
        inputs: Keys of the inputs that are activations or elementwise constants.
        output: Key of the output, behind what the device fuses (Relu, Clip, LeakyRelu).
        weight: Key of the weight; None where it has none, or none with a position of its own.
        bias: Key of the bias; None likewise.
    """

    name: str
    kind: NodeKind
    inputs: tuple[str, ...]
    output: str
    weight: str | None = None
    bias: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignRule:
    """Inputs and output of these nodes have one position.

    Attributes:
        option: Name of the switch.
        kinds: The nodes that it holds for.
        default: Whether it holds unless switched on or off.
    """

    option: str
    kinds: frozenset[NodeKind]
    default: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """A lower bound need not hold where ``plus - minus >= low``."""

    plus: tuple[Operand, ...]
    minus: tuple[Operand, ...]
    low: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftRule:
    """``low <= offset + sum of plus - sum of minus <= high``: a shift that the device's registers hold.

    Attributes:
        option: Name of the switch.
        kinds: The nodes that it holds for; it holds where they have all its operands.
        plus: Positions that are added.
        minus: Positions that are subtracted.
        offset: What is added.
        low: Lower bound.
        high: Upper bound; None if there is none.
        moves: What is moved where nothing says which move loses less.
        allowance: Where the lower bound need not hold.
        default: Whether it holds unless switched on or off.
    """

    option: str
    kinds: frozenset[NodeKind]
    plus: tuple[Operand, ...]
    minus: tuple[Operand, ...] = ()
    offset: int = 0
    low: int
    high: int | None
    moves: Operand
    allowance: Allowance | None = None
    default: bool = True


PositionRule = AlignRule | ShiftRule


@dataclass(frozen=True, slots=True)
class Shift:
    """What a rule finds at a node.

    Attributes:
        option: Name of the rule's switch.
        node: The node.
        value: The shift; for an alignment the spread of the positions.
        low: Its lower bound there.
        high: Its upper bound; None if there is none.
    """

    option: str
    node: str
    value: int
    low: int
    high: int | None

    @property
    def slack(self) -> int:
        """By how much the value may still change; negative where the rule is broken."""
        below = self.value - self.low
        return below if self.high is None else min(below, self.high - self.value)

    def __str__(self) -> str:
        bounds = f"[{self.low}, {self.high}]" if self.high is not None else f"{self.low} or more"
        return f"{self.option} at {self.node!r}: {self.value}, must be {bounds}"


@dataclass(frozen=True, slots=True)
class Move:
    """A position that was changed, and the rule and node it was changed for."""

    key: str
    before: int
    after: int
    option: str
    node: str


@dataclass(frozen=True, slots=True, eq=False)
class Refinement:
    """Positions that a device accepts, and how they came about.

    Attributes:
        positions: By key, of every key that was given.
        moves: What was changed, in order; a key may be changed more than once.
        shifts: Every rule at every node that it holds for, with its slack.
    """

    positions: Mapping[str, int]
    moves: tuple[Move, ...]
    shifts: tuple[Shift, ...]

    @property
    def violations(self) -> tuple[Shift, ...]:
        """The rules that are still broken; fixed positions can contradict them."""
        return tuple(shift for shift in self.shifts if shift.slack < 0)
