"""A planned model as the rules on positions see it."""

from collections.abc import Iterator

import onnx_ir as ir

from vqonnx.core.granularity import PerTensor
from vqonnx.core.plan import NodePlan, Plan, Role
from vqonnx.core.positions import NodeKind, PositionNode
from vqonnx.core.qtype import Kind
from vqonnx.core.spec import ScaleGrid
from vqonnx.graph.facts import float_attribute, linear_add
from vqonnx.graph.walk import only_reader
from vqonnx.kernels.dpu import is_hard_sigmoid
from vqonnx.planning.factors import is_factor

_KINDS = {
    "Add": NodeKind.ADD,
    "Sub": NodeKind.SUB,
    "Mul": NodeKind.MUL,
    "HardSigmoid": NodeKind.HARD_SIGMOID,
    "Concat": NodeKind.CONCAT,
    "MaxPool": NodeKind.POOL,
    "AveragePool": NodeKind.POOL,
    "GlobalAveragePool": NodeKind.POOL,
    "Pad": NodeKind.PAD,
    "Slice": NodeKind.SLICE,
    "Transpose": NodeKind.TRANSPOSE,
    "Reshape": NodeKind.RESHAPE,
}
_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_ELEMENTWISE = frozenset({NodeKind.ADD, NodeKind.SUB, NodeKind.MUL})
_FUSED = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu"})


def position_nodes(model: ir.Model, plan: Plan) -> list[PositionNode]:
    """The planned nodes that rules on positions may hold for, in graph order.

    The key of a position is that of the plan's group: tensors that share a scale share it. Tensors whose scale is no
    power of two, or not one for all, have none; nodes whose output has none are left out, and elementwise ones with
    an input that has none. A node's output is the one behind what the device fuses with it.

    Args:
        model: The prepared model.
        plan: Its plan.
    """
    view = _View(plan)
    return [found for node in model.graph if node.name in plan.nodes for found in view.node(node)]


def position_key(plan: Plan, key: str | None) -> str | None:
    """The key of a planned tensor's position; None where it has none."""
    if key is None:
        return None
    tensor = plan.tensors[key]
    spec = tensor.spec
    shifts = spec.grid is ScaleGrid.POWER_OF_TWO and spec.qtype.kind is Kind.INTEGER
    if not shifts or not isinstance(spec.granularity, PerTensor):
        return None
    return None if tensor.role is Role.BIAS and not tensor.own_scale else tensor.group or key


class _View:
    """What the plan says about single nodes."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def node(self, node: ir.Node) -> Iterator[PositionNode]:
        """The node as rules see it; nothing where none can hold."""
        plan = self._plan.nodes[node.name or ""]
        kind, output = self._kind(node, plan), self._output(node)
        if kind is None or output is None:
            return
        weighted = kind in (NodeKind.PRODUCT, NodeKind.LEAKY_PRODUCT)
        inputs = [position_key(self._plan, key) for key in (plan.inputs[:1] if weighted else plan.inputs)]
        known = tuple(key for key in inputs if key is not None)
        if not known or (kind in _ELEMENTWISE | {NodeKind.SWISH} and len(known) < len(node.inputs)):
            return
        yield PositionNode(
            name=node.name or "",
            kind=kind,
            inputs=known,
            output=output,
            weight=position_key(self._plan, plan.inputs[1]) if weighted else None,
            bias=self._bias(node, plan) if weighted else None,
        )

    def _kind(self, node: ir.Node, plan: NodePlan) -> NodeKind | None:
        if node.domain:
            return None
        if node.op_type in _PRODUCTS:
            return self._product(node, plan)
        if node.op_type == "HardSigmoid" and not _on_device(node):
            return None
        if node.op_type == "Mul" and _is_swish(node):
            return NodeKind.SWISH
        return _KINDS.get(node.op_type)

    def _product(self, node: ir.Node, plan: NodePlan) -> NodeKind | None:
        weight = plan.inputs[1] if len(plan.inputs) > 1 else None
        if weight is None or self._plan.tensors[weight].role is not Role.WEIGHT:
            return None
        reader = only_reader(node.outputs[0])
        leaky = reader is not None and reader[0].op_type == "LeakyRelu"
        return NodeKind.LEAKY_PRODUCT if leaky else NodeKind.PRODUCT

    def _bias(self, node: ir.Node, plan: NodePlan) -> str | None:
        add = linear_add(node)
        if add is None:
            return position_key(self._plan, plan.inputs[2] if len(plan.inputs) > 2 else None)
        behind = self._plan.nodes.get(add[0].name or "")
        return None if behind is None else position_key(self._plan, behind.inputs[add[1]])

    def _output(self, node: ir.Node) -> str | None:
        """The key of the first quantized tensor behind the node, through what alone reads it and is fused."""
        while True:
            plan = self._plan.nodes.get(node.name or "")
            key = plan.outputs[0] if plan is not None else None
            if key is not None:
                return position_key(self._plan, key)
            add, reader = linear_add(node), only_reader(node.outputs[0])
            if add is not None:
                node = add[0]
            elif reader is not None and _is_fused(*reader):
                node = reader[0]
            else:
                return None


def _is_fused(reader: ir.Node, index: int) -> bool:
    """Whether the device runs the reader with what is before it: an activation, or the factor of an average."""
    if reader.domain:
        return False
    if reader.op_type in _FUSED:
        return index == 0
    return is_factor(reader)


def _on_device(node: ir.Node) -> bool:
    """Whether a HardSigmoid has the device's slope and offset; ONNX's defaults are others."""
    return is_hard_sigmoid(float_attribute(node, "alpha", 0.2), float_attribute(node, "beta", 0.5))


def _is_swish(mul: ir.Node) -> bool:
    """Whether one input is the hard sigmoid of the other, as it is or times the device's factor."""
    for x, gate in (mul.inputs, mul.inputs[::-1]):
        maker = gate.producer() if gate is not None else None
        if maker is not None and maker.op_type == "Mul":
            maker = next((part.producer() for part in maker.inputs if part and part.producer()), None)
        if maker is not None and maker.op_type == "HardSigmoid" and maker.inputs[0] is x and _on_device(maker):
            return True
    return False
