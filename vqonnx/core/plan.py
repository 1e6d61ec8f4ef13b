"""The plan: what is quantized, how, and why the rest is not. Data only; ``stages/plan.py`` makes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
import numpy.typing as npt

from vqonnx.core.spec import QuantSpec, RangeMethod
from vqonnx.core.target import Form, Kernel


class Role(Enum):
    """What a planned tensor is to the nodes that read it."""

    ACTIVATION = "activation"
    WEIGHT = "weight"
    BIAS = "bias"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TensorPlan:
    """One quantized form of one float tensor.

    A tensor has one form as an activation, or two where the user asks for a conversion on the way. A constant
    can have several, one a meaning: a weight that a Gather and a Gemm share, a bias that stands under two inputs.

    Attributes:
        key: Unique name of this form; the tensor's own name where it has only one.
        tensor: Name of the float value.
        role: Activation (measured), weight (a constant with a range of its own), or bias (scale given by its
            node).
        spec: Type, symmetry, granularity.
        method: How the range follows from the statistics; None for constants and fixed ranges.
        bounds: Range (low, high) given by the operator or the user, instead of a measured one.
        if_dead: Range instead of a measured one that holds nothing but 0.
        fixed: (scale, zero point) given by the user.
        group: Key of the tensor whose parameters this one shares (data movers, Concat …); its own otherwise.
        converted_from: Key of the form that this one is converted from (QuantizeLinear on its dequantized value).
        scale_of: For a bias: the keys of its node's input and weight, whose scales are multiplied.
        own_scale: For a bias: it has a scale of its own instead, like a weight.
        repeats: For a bias: how often the weight's scale is repeated (groups of a ConvTranspose).
        readers: For a converted form: inputs (node, index) of nodes that stay float and read it.
        is_stored: The model holds its codes and a DequantizeLinear, to which nothing is added.
    """

    key: str
    tensor: str
    role: Role
    spec: QuantSpec
    method: RangeMethod | None = None
    bounds: tuple[float, float] | None = None
    if_dead: tuple[float, float] | None = None
    fixed: tuple[npt.NDArray[np.floating], npt.NDArray[np.generic]] | None = None
    group: str = ""
    converted_from: str | None = None
    scale_of: tuple[str, str] | None = None
    own_scale: bool = False
    repeats: int = 1
    readers: tuple[tuple[str, int], ...] = ()
    is_stored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """One node that becomes quantized.

    Attributes:
        node: The node's unique name.
        op_type: Its operator.
        kernel: An integer kernel, a mover of data, or a clip.
        inputs: For each input the key of its quantized form, or None where it stays as it is.
        outputs: The same for each output; a node without any keeps float outputs.
    """

    node: str
    op_type: str
    kernel: Kernel
    inputs: tuple[str | None, ...]
    outputs: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class Skip:
    """A node that stays float, and why."""

    node: str
    op_type: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What becomes of every node; every node with a float edge is in ``nodes`` or in ``skips``.

    Attributes:
        target: Name of the target it was made for.
        tensors: The quantized forms, by key.
        nodes: The quantized nodes, by name, in graph order.
        skips: The nodes left alone.
        form: How the graph is written.
        contrib: Whether com.microsoft's QuantizeLinear and DequantizeLinear are written, which know 16- and 4-bit
            types below opset 21.
        keeps_int8: Whether the device runs ONNX's own int8 pairs as they are, where ONNX Runtime's CPU, which stands in
            for it, would make them uint8 and then not load them.
        custom_ops: Whether Vitis AI's custom QuantizeLinear and DequantizeLinear are written instead.
        clip_bfloat16: Whether activations of 16-bit floats are clipped to the largest number before they are rounded.
        keep_clips: Whether a Relu or Clip stays where a range repeats it exactly.
        half_step_clips: Whether one goes where a range repeats it to half a step.
        weight_pairs: Whether constants stay float, with a QuantizeLinear before their DequantizeLinear (QDQ form).
        own_pairs: Whether each reader of an activation has a pair of its own (QDQ form).
        peer_layout: Whether the graph is laid out as by onnxruntime.quantization, whose programs look things up by
            their place: scales and zero points in the typed fields of their messages instead of raw bytes, constants
            first, and a converted form behind a DequantizeLinear of its own (QDQ form).
    """

    target: str
    tensors: Mapping[str, TensorPlan] = field(default_factory=dict)
    nodes: Mapping[str, NodePlan] = field(default_factory=dict)
    skips: tuple[Skip, ...] = ()
    form: Form = Form.QDQ
    keep_clips: bool = False
    half_step_clips: bool = False
    contrib: bool = False
    keeps_int8: bool = False
    custom_ops: bool = False
    clip_bfloat16: bool = False
    weight_pairs: bool = False
    own_pairs: bool = False
    peer_layout: bool = False

    def on_cpu(self) -> "Plan":
        """The plan as ONNX Runtime's CPU loads it, with the same numbers."""
        return replace(self, contrib=self.contrib or self.keeps_int8)

    def activations(self) -> list[TensorPlan]:
        """Forms whose parameters come from running the model."""
        return [tensor for tensor in self.tensors.values() if tensor.role is Role.ACTIVATION]
