"""Refine: positions that the device accepts, put into the plan before any code exists."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vqonnx.core.params import QuantParams
from vqonnx.core.plan import Plan, TensorPlan
from vqonnx.core.positions import PositionNode, PositionRule, Refinement
from vqonnx.kernels.bins import Bins
from vqonnx.kernels.scale_grid import at_position, position_of
from vqonnx.planning.position_nodes import position_key, position_nodes
from vqonnx.planning.refine import refine
from vqonnx.stages.position_losses import position_losses

Array = npt.NDArray[np.generic]


def refine_positions(
    model: ir.Model,
    plan: Plan,
    params: Mapping[str, QuantParams],
    rules: Sequence[PositionRule],
    histograms: Mapping[str, Bins],
    constant: Callable[[str], Array],
) -> tuple[Plan, Refinement]:
    """The plan with the scale of every tensor that the rules are about fixed where all rules hold.

    Codes of weights and biases that are made by this plan fit the scales, since they are made after them.

    Args:
        model: The prepared model.
        plan: Its plan; scales that the user fixed stay.
        params: Scale and zero point that each planned tensor would have, by key.
        rules: Those of the device that are to hold.
        histograms: Of activations, by tensor name; others count as evenly spread over their codes.
        constant: The float array of a planned constant, by key.

    Returns:
        The plan, and what was moved and why.
    """
    nodes = position_nodes(model, plan)
    keys = dict.fromkeys(key for node in nodes for key in _keys(node))
    members = _members(plan, keys)
    start = {key: int(position_of(params[members[key][0].key].scale)) for key in keys}
    fixed = [key for key in keys if any(tensor.fixed is not None for tensor in members[key])]
    losses = position_losses(nodes, members, params, histograms, constant)
    refinement = refine(nodes, start, rules, losses, fixed)
    tensors = dict(plan.tensors)
    for key, position in refinement.positions.items():
        for tensor in members[key]:
            tensors[tensor.key] = _fixed(tensor, at_position(params[tensor.key], position))
    return replace(plan, tensors=tensors), refinement


def _keys(node: PositionNode) -> list[str]:
    return [key for key in (*node.inputs, node.output, node.weight, node.bias) if key is not None]


def _members(plan: Plan, keys: Mapping[str, object]) -> dict[str, list[TensorPlan]]:
    """The planned tensors of each position."""
    found: dict[str, list[TensorPlan]] = {key: [] for key in keys}
    for key, tensor in plan.tensors.items():
        position = position_key(plan, key)
        if position in found:
            found[position].append(tensor)
    return found


def _fixed(tensor: TensorPlan, params: QuantParams) -> TensorPlan:
    return replace(tensor, fixed=(params.scale.astype(np.float64), params.zero_point.astype(np.int64)))
