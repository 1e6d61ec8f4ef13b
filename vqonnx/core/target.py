"""What a device runs in integers: the record types; the tables are in ``vqonnx/targets/``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from vqonnx.core.positions import PositionRule
from vqonnx.core.spec import QuantSpec


class Form(Enum):
    """How a quantized graph is written."""

    QDQ = "QDQ"
    """QuantizeLinear and DequantizeLinear around float operators, for the runtime to fuse."""
    QOPERATOR = "QOperator"
    """Integer operators that read and write codes: QLinearConv, QLinearMatMul, QGemm …"""
    FIX_NEURON = "FixNeuron"
    """One node of Vitis AI in the place of each pair of the QDQ form."""

    @property
    def keeps_operators(self) -> bool:
        """Whether operators stay float ones, with what rounds tensors between them."""
        return self is not Form.QOPERATOR


class Kernel(Enum):
    """What the device has for an operator between DequantizeLinear and QuantizeLinear."""

    COMPUTE = "integer kernel"
    MOVES = "moves or selects values of any type"
    CLIPS = "clips; absorbed by a quantized range that clips exactly like it"
    FUSED = "computed with the operator before it, nothing being quantized between; by itself an integer kernel"

    @property
    def is_activation(self) -> bool:
        """Whether it belongs to the operator before it."""
        return self in (Kernel.CLIPS, Kernel.FUSED)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpSupport:
    """How a device runs one operator.

    Attributes:
        kernel: An integer kernel, a data mover that keeps the scale, or a clip that a range can absorb.
        activations: Indices of quantized inputs that are measured or elementwise constants; empty means all
            float ones.
        weight: Input index of the weight, if it has one.
        weight_spec: Spec of the weight where the device takes another here than the target's; what users ask for wins.
        weight_axis: Output-channel axis of the weight, for per-channel scales; None if only per-tensor works.
        transposed: Name of the attribute that, when 1, moves the channel axis to the other one of two (transB).
        dynamic_weight: Whether the weight may be computed at run time; it is then quantized like an activation.
        bias: Input index of the int32 bias, if it has one.
        float_output: Whether the integer kernel can also give a float output, so that nothing is lost after.
        same_scale: Whether inputs and outputs must share one scale (Concat on some devices, MaxPool).
        output_bounds: Range of the output that follows from the operator (Softmax, Sigmoid: 0..1).
        heavy_from: Products that an output element must add up to be worth a conversion of its inputs; with fewer, or
            None (Add, pools), the operator becomes integer only where its neighbours are.
        opset: First default-domain opset whose form of the operator the kernel takes.
        types: Element types of weights that the kernel takes, by that of activations, which all have one; empty where
            types are free, as between QuantizeLinear and DequantizeLinear.
        attributes: Values that the kernel takes of an attribute; where it is left out, its default is one of them.
        absent: Indices of optional inputs that the kernel does not take.
        one_zero_point: Whether all channels of the weight must have the same zero point.
        behind: Of what is computed with the operator before it: those that may be; all where empty.
        bounds: Of a Clip that is: the bounds (low, high) that it may have; any where empty.
        on_request: Quantized only where the user names the operator: its integer kernel is slower than the float one.
        follows: On a target that takes graphs as given: quantized only where all its activations are quantized already.
    """

    kernel: Kernel = Kernel.COMPUTE
    activations: tuple[int, ...] = ()
    weight: int | None = None
    weight_spec: QuantSpec | None = None
    weight_axis: int | None = None
    transposed: str | None = None
    dynamic_weight: bool = False
    bias: int | None = None
    float_output: bool = False
    same_scale: bool = False
    output_bounds: tuple[float, float] | None = None
    heavy_from: int | None = None
    opset: int = 1
    types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    attributes: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    absent: tuple[int, ...] = ()
    one_zero_point: bool = False
    behind: tuple[str, ...] = ()
    bounds: tuple[tuple[float, float], ...] = ()
    on_request: bool = False
    follows: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A device: types, constraints and operators, all as data.

    Attributes:
        name: What users type; stored in the written model's metadata.
        provider: ONNX Runtime's execution provider.
        description: One line for ``vqonnx targets``.
        activation: Default spec of activations.
        weight: Default spec of weights, per tensor; made per channel where the operator has an axis for it and
            ``per_channel`` says so.
        per_channel: Whether weights have one scale an output channel by default.
        bias: Whether biases are quantized; they stay float otherwise.
        own_bias: What biases become in the QDQ form, each with a scale of its own; int32 at input_scale x weight_scale
            where None.
        everything: Whether all operators with a kernel are quantized, however light and wherever they stand.
        as_given: Whether the graph is taken as it is: nothing is folded or fused first, and what the table lists is
            quantized without asking what it gains; samples too, whose NaN and infinite elements are left out of ranges.
        others: How operators that are not listed are run where the user names them; None: not at all.
        positions: Rules on the positions (-log2) of power-of-two scales; see ``core.positions``.
        family: The quantizer classes that serve it: ``""`` for the plain ones, ``"vitis"``.
        ops: Operators in the QDQ form, by ``op_type`` (default domain) or ``domain::op_type``.
        other_ops: The same for each other form that the device runs.
        max_opset: Highest default-domain opset that the device's operators are registered for.
        sources: Where the facts come from.
    """

    name: str
    provider: str
    description: str
    activation: QuantSpec
    weight: QuantSpec
    per_channel: bool = True
    bias: bool = True
    own_bias: QuantSpec | None = None
    everything: bool = False
    as_given: bool = False
    others: OpSupport | None = None
    positions: tuple[PositionRule, ...] = field(default=(), repr=False)
    family: str = ""
    ops: Mapping[str, OpSupport] = field(repr=False)
    other_ops: Mapping[Form, Mapping[str, OpSupport]] = field(default_factory=dict, repr=False)
    max_opset: int = 21
    sources: tuple[str, ...] = ()

    @property
    def forms(self) -> Mapping[Form, Mapping[str, OpSupport]]:
        """The operators of each form that the device runs."""
        return {Form.QDQ: self.ops, **self.other_ops}
