"""A plan for readers: one row a node, what becomes of it and why."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vqonnx.core.granularity import PerAxis, PerBlock
from vqonnx.core.plan import NodePlan, Plan
from vqonnx.core.target import Kernel
from vqonnx.report.text import counted


@dataclass(frozen=True, slots=True)
class PlanRow:
    """What becomes of one node."""

    node: str
    op_type: str
    what: str
    why: str


def plan_rows(plan: Plan) -> Iterator[PlanRow]:
    """The quantized nodes in graph order, then those that stay float."""
    for node in plan.nodes.values():
        yield PlanRow(node.node, node.op_type, _what(node, plan), node.kernel.value)
    for skip in plan.skips:
        yield PlanRow(skip.node, skip.op_type, "float", skip.reason)


def _what(node: NodePlan, plan: Plan) -> str:
    """``"uint8 x int8 per axis x int32 -> uint8"``."""
    inputs = " x ".join(_type(key, plan) for key in node.inputs if key is not None)
    if node.kernel is not Kernel.COMPUTE:
        return inputs or _outputs(node, plan)
    return f"{inputs} -> {_outputs(node, plan)}"


def _outputs(node: NodePlan, plan: Plan) -> str:
    return ", ".join(dict.fromkeys("float" if key is None else _type(key, plan) for key in node.outputs))


def _type(key: str, plan: Plan) -> str:
    spec = plan.tensors[key].spec
    name = spec.qtype.name + (" (7 bits)" if spec.reduce_range else "")
    if isinstance(spec.granularity, PerAxis):
        return f"{name} per channel"
    if isinstance(spec.granularity, PerBlock):
        return f"{name} in blocks of {spec.granularity.size}"
    return name


def print_plan(plan: Plan, console: Console) -> None:
    """Write the plan on ``console`` as a table and a line that sums it up."""
    table = Table(box=None, pad_edge=False)
    for title in ("node", "operator", "what", "why"):
        table.add_column(title, overflow="fold")
    for row in plan_rows(plan):
        cells = (row.node, row.op_type, row.what, row.why)
        table.add_row(*(Text(cell, style="dim" if row.what == "float" else "") for cell in cells))
    console.print(table)
    quantized = Counter(node.op_type for node in plan.nodes.values())
    total = len(plan.nodes) + len(plan.skips)
    what = f"{len(plan.nodes)} of {total} nodes for target {plan.target} in {plan.form.value} form"
    console.print(Text(f"{what}: {counted(quantized) or 'none'}"))


def plan_json(plan: Plan) -> str:
    """The rows as indented JSON."""
    nodes = [asdict(row) for row in plan_rows(plan)]
    return json.dumps({"target": plan.target, "form": plan.form.value, "nodes": nodes}, indent=2)
