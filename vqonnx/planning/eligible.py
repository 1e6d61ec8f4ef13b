"""Which nodes the target can run in integers, and why the others stay float."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from vqonnx.core.plan import Skip
from vqonnx.core.target import Kernel, OpSupport, Target
from vqonnx.graph.facts import linear_add, operator_key
from vqonnx.graph.walk import is_float
from vqonnx.planning.candidate import Candidate
from vqonnx.planning.factors import is_factor
from vqonnx.planning.obstacles import CHECKS


def candidates(
    nodes: Sequence[ir.Node], target: Target, rejected: Mapping[str, str]
) -> tuple[list[Candidate], list[Skip]]:
    """Split the nodes with a float edge into those that the target can run in integers and those that stay float.

    Args:
        nodes: The nodes of the main graph, in graph order.
        target: The device.
        rejected: Nodes that the user or the guard leaves float, with the reason.
    """
    found: list[Candidate] = []
    skips: list[Skip] = []
    taken: set[ir.Node] = set()
    for node in nodes:
        if node in taken or not has_float_edge(node):
            continue
        support = target.ops.get(operator_key(node))
        if support is not None and not support.types and target.positions and is_factor(node):
            support = replace(support, kernel=Kernel.FUSED, activations=(0,))
        reason = rejected.get(node.name or "") or _unsupported(node, support, target)
        if reason or support is None:
            skips.append(Skip(node.name or "", node.op_type, reason))
        else:
            add = linear_add(node)
            if add is not None and add[0].name in rejected:
                add = None
            found.append(Candidate(node, support, add))
            if add is not None:
                taken.add(add[0])
    return found, skips


def has_float_edge(node: ir.Node) -> bool:
    """Whether a node reads or writes a float tensor."""
    return any(value is not None and is_float(value) for value in (*node.inputs, *node.outputs))


def _unsupported(node: ir.Node, support: OpSupport | None, target: Target) -> str:
    """Why the target cannot run this node in integers; empty if it can."""
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return "already quantized"
    if support is None:
        return f"target {target.name} has no integer kernel for {operator_key(node)}"
    return next((reason for check in CHECKS if (reason := check(Candidate(node, support)))), "")
