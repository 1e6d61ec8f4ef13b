"""Solve: from a plan and a solver, which answers for every number, to the parameters and codes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vqonnx.core.granularity import PerAxis
from vqonnx.core.params import QuantizedTensor, QuantParams
from vqonnx.core.plan import NodePlan, Plan, Role
from vqonnx.core.solution import Solutions
from vqonnx.core.spec import QuantSpec
from vqonnx.graph.walk import constant_tensor, nodes_by_name, release

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[np.generic]


class Solver(Protocol):
    """What decides the numbers: the quantizer classes and the subclasses of users."""

    def calculate_quantization_params(self) -> Mapping[str, QuantParams]:
        """Scale and zero point of every planned activation, by key."""
        ...

    def quantize_weight(
        self,
        node: "onnx.NodeProto",
        indices: Sequence[int],
        reduce_range: bool = False,
        op_level_per_channel: bool = False,
        axis: int = -1,
        from_subgraph: bool = False,
    ) -> tuple[list[str], list[str], list[str], list["onnx.NodeProto"]]:
        """Names of the codes, zero points and scales of the node's constants at ``indices``."""
        ...

    def quantize_bias_static(self, bias_name: str, input_name: str, weight_name: str, beta: float = 1.0) -> str:
        """Name of the codes of a bias."""
        ...

    def quantized_tensor(self, q_name: str, spec: QuantSpec) -> QuantizedTensor:
        """The arrays behind the name of some codes."""
        ...


def solve(model: ir.Model, plan: Plan, solver: Solver) -> Solutions:
    """Ask the solver for every activation's parameters and, one node after the other, for the constants' codes.

    Weights come before biases, whose scales are made of theirs.
    """
    activations = dict(solver.calculate_quantization_params())
    constants: dict[str, QuantizedTensor] = {}
    nodes = nodes_by_name(model)
    for node_plan, index, key in _constant_inputs(plan, Role.WEIGHT, constants):
        node = nodes[node_plan.node]
        constants[key] = _weight(solver, node, index, plan.tensors[key].spec)
        release(constant_tensor(node.inputs[index]))
    for node_plan, index, key in _constant_inputs(plan, Role.BIAS, constants):
        tensor = plan.tensors[key]
        if tensor.own_scale:
            constants[key] = _weight(solver, nodes[node_plan.node], index, tensor.spec)
            continue
        assert tensor.scale_of is not None
        name = solver.quantize_bias_static(key, *tensor.scale_of)
        constants[key] = solver.quantized_tensor(name, tensor.spec)
    return Solutions(activations, constants)


def _weight(solver: Solver, node: ir.Node, index: int, spec: QuantSpec) -> QuantizedTensor:
    """A constant whose scale follows from its own range."""
    axis = spec.granularity.axis if isinstance(spec.granularity, PerAxis) else None
    names, _, _, _ = solver.quantize_weight(
        ir.serde.serialize_node(node),
        [index],
        reduce_range=spec.reduce_range,
        op_level_per_channel=axis is not None,
        axis=-1 if axis is None else axis,
    )
    return solver.quantized_tensor(names[0], spec)


def _constant_inputs(plan: Plan, role: Role, done: Mapping[str, object]) -> Iterator[tuple[NodePlan, int, str]]:
    """(node, input index, key) of the planned constants, each key once."""
    for node in plan.nodes.values():
        for index, key in enumerate(node.inputs):
            if key is not None and key not in done and plan.tensors[key].role is role:
                yield node, index, key
