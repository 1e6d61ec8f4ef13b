"""Conv, ConvTranspose and Gemm as weight and bias: what their channels are, and how to scale and shift them."""

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vqonnx.graph.facts import float_attribute, int_attribute
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import constant_tensor
from vqonnx.transforms.affine import Affine, Layout
from vqonnx.transforms.weights import F64, float_constant, set_constant, stored

OPERATORS = frozenset({"Conv", "ConvTranspose", "Gemm"})


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear node with a constant weight and a constant vector as bias, or none.

    Attributes:
        node: The node: inputs are x, weight and optionally bias.
        weight: Shape and element type of the weight.
        output: Layout of what it computes.
        groups: Groups of a Conv or ConvTranspose; output channels read the inputs of their own group alone.
        axis: The weight's axis of output channels: 0, or 1 (of one group) where axis 0 holds the inputs.
    """

    node: ir.Node
    weight: ir.TensorProtocol
    output: Layout
    groups: int
    axis: int

    @property
    def inputs(self) -> int:
        """Channels that it reads."""
        first, second = self.weight.shape.numpy()[:2]
        return int(first if self.axis == 1 else second * self.groups)

    def blocks(self) -> F64:
        """The weight as [groups, outputs of one group, inputs of one group, positions], in float64."""
        numbers = float_constant(self.node.inputs[1])
        if numbers is None:  # pragma: no cover - as_linear looked
            raise TypeError(f"the weight of {self.node.name!r} is not constant")
        first, second, *kernel = numbers.shape
        blocks = numbers.reshape(self.groups, first // self.groups, second, math.prod(kernel))
        return blocks.swapaxes(1, 2) if self.axis == 1 else blocks

    def rescaled(self, *, outputs: F64 | None = None, inputs: F64 | None = None) -> F64:
        """The weight, in its own shape, for outputs and inputs that are as many times as large, channel by channel."""
        blocks = self.blocks()
        if outputs is not None:
            blocks = blocks * outputs.reshape(self.groups, -1, 1, 1)
        if inputs is not None:
            blocks = blocks / inputs.reshape(self.groups, 1, -1, 1)
        own = blocks.swapaxes(1, 2) if self.axis == 1 else blocks
        return np.ascontiguousarray(own).reshape(self.weight.shape.numpy())

    def bias(self) -> F64:
        """The bias [channels], zeros where there is none, in float64."""
        value = self.node.inputs[2] if len(self.node.inputs) > 2 else None
        numbers = float_constant(value)
        return np.zeros(self.output.channels) if numbers is None else numbers.reshape(-1)


def as_linear(node: ir.Node) -> Linear | None:
    """``node`` as a linear node; None if it is another, or its weight or bias is not constant.

    A Gemm must be in the form that ``gemm.normalize_gemms`` leaves: beta 1, bias [N].
    """
    if node.op_type not in OPERATORS or node.domain or len(node.inputs) < 2:
        return None
    weight = constant_tensor(node.inputs[1])
    if weight is None or not weight.size or float_attribute(node, "beta", 1.0) != 1.0:
        return None
    axis = _channel_axis(node)
    groups = int_attribute(node, "group", 1)
    channels = weight.shape.numpy()[axis] * (groups if axis == 1 else 1)
    layout = Layout(rank=len(weight.shape), axis=1, channels=channels)
    return Linear(node, weight, layout, groups, axis) if _has_plain_bias(node, channels) else None


def _channel_axis(node: ir.Node) -> int:
    if node.op_type == "Gemm":
        return 0 if int_attribute(node, "transB", 0) else 1
    return 1 if node.op_type == "ConvTranspose" else 0


def _has_plain_bias(node: ir.Node, channels: int) -> bool:
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    tensor = constant_tensor(node.inputs[2])
    return tensor is not None and tuple(tensor.shape.numpy()) == (channels,)


def absorb(linear: Linear, affine: Affine, names: NameAllocator) -> bool:
    """Make ``linear`` compute ``scale * y + shift`` instead of y; False, and nothing changed, where that overflows.

    Weights that other nodes read are copied. A bias appears where the shift needs one.
    """
    node, dtype = linear.node, linear.weight.dtype
    scales = bool((affine.scale != 1).any())
    bias = affine.scale * linear.bias() + affine.shift
    new_bias = stored(bias, dtype)
    new_weight = stored(linear.rescaled(outputs=affine.scale), dtype) if scales else None
    if new_bias is None or (scales and new_weight is None):
        return False
    if new_weight is not None:
        set_constant(node, 1, new_weight, names, f"{node.name}_weight")
    if len(node.inputs) > 2 or bias.any():
        set_constant(node, 2, new_bias, names, f"{node.name}_bias")
    return True
