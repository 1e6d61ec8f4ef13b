"""How much the whole model suffers when one planned operator alone is quantized.

The error of an operator's own output does not tell it: what follows may swallow or multiply it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from vqonnx.calibration.feeds import Feed
from vqonnx.core.plan import NodePlan, Plan, Role
from vqonnx.core.solution import Solutions
from vqonnx.core.target import Kernel
from vqonnx.graph.walk import nodes_by_name
from vqonnx.kernels.metrics import ErrorSums
from vqonnx.progress import Progress, silent
from vqonnx.runtime.package import runtime_errors
from vqonnx.runtime.session import open_session, run_session
from vqonnx.stages.emit import emit
from vqonnx.stages.pieces import piece_sqnr

MOST_OPERATORS = 64
"""Operators that are asked about: each takes a session and a run of the model."""


def sensitivities(
    model: ir.Model,
    plan: Plan,
    solutions: Solutions,
    feeds: Sequence[Feed],
    *,
    providers: Sequence[str],
    progress: Progress = silent,
) -> dict[str, float]:
    """SQNR in dB of the model's worst float output when one planned operator is quantized and no other.

    Args:
        model: The prepared float model.
        plan: Its plan.
        solutions: Its numbers.
        feeds: A few samples; each operator runs the model on all of them.
        providers: Execution providers.
        progress: Told of each operator.

    Returns:
        By node name, lowest first; only operators that compute, and of more than ``MOST_OPERATORS`` only those that
        spoil their own output most.
    """
    units = _worth_asking(list(_units(model, plan)), model, plan, solutions, feeds, providers)
    expected = _outputs(model, feeds, providers)
    found: dict[str, float] = {}
    for done, unit in enumerate(units, start=1):
        given = _outputs(emit(model, _only(plan, unit), solutions), feeds, providers)
        found[unit[0].node] = _worst(expected, given)
        progress("find sensitive nodes", done, len(units))
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _worth_asking(
    units: list[list[NodePlan]],
    model: ir.Model,
    plan: Plan,
    solutions: Solutions,
    feeds: Sequence[Feed],
    providers: Sequence[str],
) -> list[list[NodePlan]]:
    if len(units) <= MOST_OPERATORS:
        return units
    own = piece_sqnr(model, plan, solutions, feeds, providers)
    return sorted(units, key=lambda unit: own.get(unit[0].node, float("inf")))[:MOST_OPERATORS]


def _outputs(model: ir.Model, feeds: Sequence[Feed], providers: Sequence[str]) -> list[list[object]]:
    """Every output for every sample. Not optimized: each session runs a few samples only."""
    session = open_session(model, providers=providers, optimize=False)
    with runtime_errors("run a model with one quantized operator"):
        return [run_session(session, None, feed) for feed in feeds]


def _worst(expected: Sequence[Sequence[object]], given: Sequence[Sequence[object]]) -> float:
    """SQNR of the worst float output whose shape is the same in all samples."""
    worst = float("inf")
    for column, other in zip(zip(*expected, strict=True), zip(*given, strict=True), strict=True):
        sums = ErrorSums()
        for one, two in zip(column, other, strict=True):
            if _comparable(one) and _comparable(two) and np.shape(one) == np.shape(two):
                sums = sums.merge(ErrorSums.of(np.asarray(one), np.asarray(two)))
        worst = min(worst, sums.sqnr_db)
    return worst


def _comparable(value: object) -> bool:
    return isinstance(value, np.ndarray) and bool(np.issubdtype(value.dtype, np.floating))


def _units(model: ir.Model, plan: Plan) -> Iterator[list[NodePlan]]:
    """Each operator that reads activations, with the bias or clip behind it that belongs to it."""
    nodes = nodes_by_name(model)
    for planned in plan.nodes.values():
        if planned.kernel is Kernel.COMPUTE and _reads_activations(planned, plan):
            unit = [planned]
            while (behind := _behind(nodes[unit[-1].node], plan)) is not None and unit[-1].outputs[0] is None:
                unit.append(behind)
            yield unit


def _behind(node: ir.Node, plan: Plan) -> NodePlan | None:
    """The planned clip, or Add of a bias, that alone reads the node's output."""
    readers = [plan.nodes.get(reader.name or "") for reader, _ in node.outputs[0].uses()]
    reader = readers[0] if len(readers) == 1 else None
    if reader is None or (reader.kernel is Kernel.COMPUTE and _reads_activations(reader, plan)):
        return None
    return reader if reader.kernel is not Kernel.MOVES else None


def _reads_activations(planned: NodePlan, plan: Plan) -> bool:
    return any(key is not None and plan.tensors[key].role is Role.ACTIVATION for key in planned.inputs)


def _only(plan: Plan, unit: Sequence[NodePlan]) -> Plan:
    keys = {key for planned in unit for key in (*planned.inputs, *planned.outputs) if key is not None}
    tensors = {key: tensor for key, tensor in plan.tensors.items() if key in keys}
    return replace(plan, nodes={planned.node: planned for planned in unit}, tensors=tensors)
