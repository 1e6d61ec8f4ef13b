"""A node that may become quantized."""

from dataclasses import dataclass

import onnx_ir as ir

from vqonnx.core.target import OpSupport
from vqonnx.graph.facts import int_attribute
from vqonnx.graph.walk import constant_tensor, is_float


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node that may become quantized, and how the target runs it."""

    node: ir.Node
    support: OpSupport
    add: tuple[ir.Node, int] | None = None
    """The Add that gives a MatMul its bias, and the index of the bias among its inputs."""

    @property
    def name(self) -> str:
        """The node's unique name."""
        return self.node.name or ""

    @property
    def tail(self) -> ir.Node:
        """The node that computes the result: the Add of a linear layer, else the node itself."""
        return self.node if self.add is None else self.add[0]

    def input(self, index: int | None) -> ir.Value | None:
        """The input at ``index``, or None where the node has none there."""
        return self.node.inputs[index] if index is not None and index < len(self.node.inputs) else None

    def weight(self) -> ir.Value | None:
        """The constant weight, if the node has one."""
        value = self.input(self.support.weight)
        return value if value is not None and constant_tensor(value) is not None else None

    def bias(self) -> ir.Value | None:
        """The bias input, if the node (or the Add behind it) has one."""
        return self.input(self.support.bias) if self.add is None else self.add[0].inputs[self.add[1]]

    def activations(self) -> list[int]:
        """Indices of the inputs that are quantized as activations: float, present, neither weight nor bias."""
        apart = {self.support.bias, self.support.weight if self.weight() is not None else None}
        indices = self.support.activations or range(len(self.node.inputs))
        return [i for i in indices if i not in apart and (v := self.input(i)) is not None and is_float(v)]

    def is_heavy(self) -> bool:
        """Whether the node does enough arithmetic to be worth a conversion of its inputs."""
        least, weight = self.support.heavy_from, constant_tensor(self.weight())
        if least is None or weight is None:
            return least is not None
        shape, axis = weight.shape.numpy(), self.channel_axis()
        return weight.size >= least * (shape[axis] if axis is not None and axis < len(shape) else 1)

    def widens(self) -> bool:
        """Whether the node multiplies with a weight and gives more channels than it takes."""
        weight, axis = constant_tensor(self.weight()), self.channel_axis()
        if self.support.heavy_from is None or weight is None or axis is None or len(weight.shape) < 2:
            return False
        shape = weight.shape.numpy()
        return shape[1 - axis] * int_attribute(self.node, "group", 1) < shape[axis]

    def channel_axis(self) -> int | None:
        """Output-channel axis of the weight; None where only one scale for the whole weight works."""
        axis, flag = self.support.weight_axis, self.support.transposed
        if axis is not None and flag is not None and int_attribute(self.node, flag, 0):
            return 1 - axis
        return axis
