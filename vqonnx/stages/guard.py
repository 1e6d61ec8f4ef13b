"""Guard: find what would collapse in integers, so that it stays float.

Two questions. Of every planned tensor, from its histogram: how much of it is left after its own quantization, and
how much of each part of a joined tensor after that of the whole? And of a whole result that came out too bad: which
nodes add the noise?
"""

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from vqonnx.calibration.statistics import Statistic
from vqonnx.calibration.statistics.histogram import Histogram
from vqonnx.core.params import QuantParams
from vqonnx.core.plan import NodePlan, Plan, Role
from vqonnx.core.solution import Solutions
from vqonnx.core.target import Kernel
from vqonnx.graph.walk import nodes_by_name
from vqonnx.kernels.fidelity import quantization_sqnr
from vqonnx.report.figures import OutputFigures

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
        if reason is not None and node.kernel is not Kernel.CLIPS:
            found[node.node] = reason
    return found


def _complaints(node: NodePlan, plan: Plan, solutions: Solutions, statistics: Mapping[str, Statistic]) -> Iterator[str]:
    for key in (*node.inputs, *node.outputs):
        left = _left(key, key, plan, solutions, statistics)
        if key is not None and left < LEAST_LOCAL_DB:
            yield f"quantizing {plan.tensors[key].tensor!r} would leave {left:.1f} dB of it: it has outliers"
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
    statistic = statistics.get(plan.tensors[key].tensor)
    params: QuantParams = solutions.params(scaled_like)
    if not isinstance(statistic, Histogram) or params.scale.ndim:
        return float("inf")
    return quantization_sqnr(statistic.as_bins(), params, _BULK)


def noisiest_nodes(model: ir.Model, plan: Plan, figures: Sequence[OutputFigures], count: int) -> dict[str, str]:
    """The planned nodes that add most noise, with the reason.

    A node adds the relative noise of its output less that of its noisiest input.

    Args:
        model: The prepared float model.
        plan: The plan of the result.
        figures: SQNR of the tensors inside, from ``compare_tensors``.
        count: How many to name.
    """
    noise = {figure.name: 10 ** (-figure.sqnr_db / 10) for figure in figures if figure.sqnr_db is not None}
    nodes = nodes_by_name(model)
    added: list[tuple[float, str]] = []
    for planned in plan.nodes.values():
        if planned.kernel is not Kernel.CLIPS and any(key is not None for key in planned.inputs):
            node = nodes[planned.node]
            before = max((noise.get(value.name or "", 0.0) for value in node.inputs if value is not None), default=0.0)
            after = max((noise.get(value.name or "", 0.0) for value in node.outputs), default=0.0)
            added.append((after - before, planned.node))
    worst = sorted(added, reverse=True)[:count]
    return {name: f"it added most noise ({share:.0%} of its output)" for share, name in worst if share > 0}


def failing(figures: Sequence[OutputFigures], least_db: float) -> list[str]:
    """Names of the outputs below ``least_db``."""
    return [figure.name for figure in figures if figure.sqnr_db is not None and figure.sqnr_db < least_db]
