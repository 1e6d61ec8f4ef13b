"""Planned nodes of bodies that no calibration sample ran: nothing tells their ranges."""

from collections.abc import Mapping

import onnx_ir as ir

from vqonnx.calibration.model import observable_values
from vqonnx.calibration.statistics import Statistic
from vqonnx.core.plan import Plan


def unseen_nodes(model: ir.Model, plan: Plan, statistics: Mapping[str, Statistic]) -> dict[str, str]:
    """Nodes to leave float, with the reason: an activation around them is in a body, and no sample gave it an element.

    Args:
        model: The prepared model.
        plan: Its plan.
        statistics: What was observed, by tensor.
    """
    main = observable_values(model)
    unseen = {
        tensor.key: tensor.tensor
        for tensor in plan.activations()
        if tensor.tensor in statistics and statistics[tensor.tensor].is_empty and tensor.tensor not in main
    }
    found: dict[str, str] = {}
    for node in plan.nodes.values() if unseen else ():
        key = next((key for key in (*node.inputs, *node.outputs) if key in unseen), None)
        if key is not None:
            tensor = unseen[key]
            found[node.node] = f"no calibration sample ran the body that has {tensor!r}, so nothing tells its range"
    return found
