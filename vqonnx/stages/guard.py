"""Guard: find what would collapse in integers from the histograms alone, so that it stays float.

How much of every planned tensor is left after its own quantization, and how much of each part of a joined tensor
after that of the whole? (``sensitivity.py`` asks what a single quantized operator does to the whole model.)
"""

from collections.abc import Iterator, Mapping

from vqonnx.calibration.statistics import Statistic
from vqonnx.calibration.statistics.histogram import Histogram
from vqonnx.core.params import QuantParams
from vqonnx.core.plan import NodePlan, Plan, Role
from vqonnx.core.solution import Solutions
from vqonnx.kernels.fidelity import quantization_sqnr

LEAST_LOCAL_DB = 8.0
"""A tensor, or a part of one, that keeps less than this through its own quantization is left float."""
_BULK = 0.99
"""Share of a tensor's elements that must survive; the others may be outliers that hide the rest."""


def collapsing_nodes(plan: Plan, solutions: Solutions, statistics: Mapping[str, Statistic]) -> dict[str, str]:
    """Nodes to leave float, with the reason, as far as the histograms of single tensors tell.

    Args:
        plan: The plan.
        solutions: Its numbers.
        statistics: What was observed, by tensor; only histograms tell anything.
    """
    found: dict[str, str] = {}
    for node in plan.nodes.values():
        reason = next(_complaints(node, plan, solutions, statistics), None)
        if reason is not None and not node.kernel.is_activation:
            found[node.node] = reason
    return found


def _complaints(node: NodePlan, plan: Plan, solutions: Solutions, statistics: Mapping[str, Statistic]) -> Iterator[str]:
    for key in (*node.inputs, *node.outputs):
        left = _left(key, key, plan, solutions, statistics)
        if key is not None and left < LEAST_LOCAL_DB:
            tensor = plan.tensors[key]
            why = "it has outliers" if tensor.fixed is None else "the device's rules, or the caller, fix its scale"
            yield f"quantizing {tensor.tensor!r} would leave {left:.1f} dB of it: {why}"
    output = next((key for key in node.outputs if key is not None), None)
    if node.op_type == "Concat":
        for key in node.inputs:
            left = _left(key, output, plan, solutions, statistics)
            if key is not None and left < LEAST_LOCAL_DB:
                yield f"one scale for all inputs would leave {left:.1f} dB of {plan.tensors[key].tensor!r}"


def _left(
    key: str | None, scaled_like: str | None, plan: Plan, solutions: Solutions, statistics: Mapping[str, Statistic]
) -> float:
    """SQNR in dB of the bulk of an activation quantized with another's scale; inf where nothing is known."""
    if key is None or scaled_like is None or plan.tensors[key].role is not Role.ACTIVATION:
        return float("inf")
    tensor = plan.tensors[key]
    # What was only moved is not measured again: its values are those of its group.
    statistic = statistics.get(tensor.tensor, statistics.get(plan.tensors[tensor.group].tensor))
    params: QuantParams = solutions.params(scaled_like)
    if not isinstance(statistic, Histogram) or params.scale.ndim or not params.spec.has_scale:
        return float("inf")
    return quantization_sqnr(statistic.as_bins(), params, _BULK)
