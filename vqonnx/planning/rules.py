"""What the user and the guard ask of a plan, as values."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from vqonnx.core.qtype import QType
from vqonnx.core.spec import QuantSpec, RangeMethod
from vqonnx.core.target import Form

if TYPE_CHECKING:
    import onnx

Pattern: TypeAlias = "str | Callable[[onnx.NodeProto], bool]"
"""A node's name, a glob ("/encoder/*"), "re:" and a regular expression for the whole name, "op:" and an operator, or a
predicate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which nodes may be quantized.

    Attributes:
        nodes: Patterns of nodes to quantize; empty means all.
        exclude: Patterns of nodes to leave float; they win over ``nodes``.
        op_types: Operators to quantize; empty means all that the target runs in integers.
        strict: Whether a name that matches nothing is an error; otherwise a warning is logged.
    """

    nodes: tuple[Pattern, ...] = ()
    exclude: tuple[Pattern, ...] = ()
    op_types: tuple[str, ...] = ()
    strict: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """A second quantized form of an activation, for some of its readers.

    Attributes:
        form: Type and whatever else the user fixes for it; None keeps what the first form has.
        readers: Names of the nodes that read the converted form; empty means all.
    """

    form: "Override"
    readers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """What the user fixes for one tensor (one entry of ``TensorQuantOverrides``); None keeps the plan's choice.

    Attributes:
        qtype: Element type.
        symmetric: Whether the range is centred on zero.
        reduce_range: Whether to use one bit less.
        axis: Axis of per-channel scales (constants only).
        low: Lower end of the range.
        high: Upper end of the range.
        channel_ranges: (low, high) of each channel instead (constants only).
        scale: Scale; given together with ``zero_point``. One number, or one a channel.
        zero_point: Zero point.
        conversion: A second form for some readers.
    """

    qtype: QType | None = None
    symmetric: bool | None = None
    reduce_range: bool | None = None
    axis: int | None = None
    low: float | None = None
    high: float | None = None
    channel_ranges: tuple[tuple[float, float], ...] = ()
    scale: tuple[float, ...] | None = None
    zero_point: tuple[int, ...] | None = None
    conversion: Conversion | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTypes:
    """Element types of some nodes; None keeps the plan's.

    Attributes:
        pattern: Which nodes.
        activation: Of what they compute and read.
        weight: Of their weights.
    """

    pattern: Pattern
    activation: QType | None = None
    weight: QType | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRules:
    """Everything that shapes a plan besides the graph and the target.

    Attributes:
        activation: Spec of activations.
        weight: Spec of weights, per tensor; ``per_channel`` makes it per axis where the operator allows.
        form: How the graph will be written.
        per_channel: One scale an output channel for weights.
        quantize_bias: Whether biases are quantized; they stay float otherwise.
        own_bias: What biases become in the QDQ form, with scales of their own; int32 on the accumulator's scale where
            None.
        dynamic_matmul: Whether a MatMul of two activations is quantized.
        method: How ranges of activations follow from statistics.
        selection: Which nodes may be quantized.
        overrides: By tensor name.
        floats: Nodes that must stay float, with the reason (the guard's findings).
        contrib: Write com.microsoft's QuantizeLinear and DequantizeLinear.
        custom_ops: Write Vitis AI's.
        clip_bfloat16: Clip to bfloat16's largest number before each Cast to it, and so float16.
        keep_clips: Keep a Relu or Clip where a range repeats it exactly.
        everything: Quantize light operators wherever the target has a kernel, not only between others.
        layers: Types of single nodes or operators; of patterns that choose the same node the last wins. Where types
            meet, the reader's form is converted from the other.
        unsigned_relu: Make signed types of what is never below zero (a Relu's or Clip's output) unsigned.
        activations: Whether activations are quantized; only weights are otherwise.
        bodies: Whether nodes in bodies of If, Loop and Scan are quantized.
        float_outputs: Operators whose outputs are not quantized.
        channel_axes: Channel axis of weights by operator, instead of the target's.
        block_size: Elements of a weight [K, N] that share a scale, along K; 0: all of a tensor or channel.
        weight_pairs: Keep constants float, with a QuantizeLinear before their DequantizeLinear.
        own_pairs: Give each reader of an activation a pair of its own.
        keep_stored: Complete nodes that read stored codes, with the numbers of these (QDQ form).
        half_biases: Quantize biases of float16 models too, with float16 scales (QDQ form). ONNX Runtime 1.31 does so
            itself otherwise, and divides them by their scales in float16, where they overflow.
        sigmoid_256: Give outputs of Sigmoid the scale 1/256 that NNAPI wants (QOperator form, uint8).
    """

    activation: QuantSpec
    weight: QuantSpec
    form: Form = Form.QDQ
    per_channel: bool = True
    quantize_bias: bool = True
    own_bias: QuantSpec | None = None
    dynamic_matmul: bool = True
    method: RangeMethod = RangeMethod.MSE
    selection: Selection = Selection()
    overrides: Mapping[str, Override] = field(default_factory=dict)
    floats: Mapping[str, str] = field(default_factory=dict)
    keep_clips: bool = False
    contrib: bool = False
    custom_ops: bool = False
    clip_bfloat16: bool = False
    everything: bool = False
    layers: tuple[LayerTypes, ...] = ()
    unsigned_relu: bool = False
    activations: bool = True
    bodies: bool = True
    float_outputs: frozenset[str] = frozenset()
    channel_axes: Mapping[str, int] = field(default_factory=dict)
    block_size: int = 0
    weight_pairs: bool = False
    own_pairs: bool = False
    keep_stored: bool = False
    half_biases: bool = False
    sigmoid_256: bool = False

    @property
    def has_axes(self) -> bool:
        """Whether any weight may have a scale an index of an axis."""
        return self.per_channel or any(override.axis is not None for override in self.overrides.values())

    def without(self, nodes: Iterable[str]) -> "PlanRules":
        """The rules with further nodes left float, by name."""
        exclude = (*self.selection.exclude, *nodes)
        return replace(self, selection=replace(self.selection, exclude=exclude))
