"""A plan for readers: types, reasons, and the line that sums it up."""

import io
import json

from rich.console import Console

from vqonnx.core.granularity import PerAxis
from vqonnx.core.plan import NodePlan, Plan, Role, Skip, TensorPlan
from vqonnx.core.qtype import INT8, INT32, UINT8
from vqonnx.core.spec import QuantSpec
from vqonnx.core.target import Kernel
from vqonnx.report.plan import plan_json, plan_rows, print_plan


def tensor(key: str, role: Role, **spec: object) -> TensorPlan:
    return TensorPlan(key=key, tensor=key, role=role, spec=QuantSpec(**spec))


PLAN = Plan(
    target="cpu",
    tensors={
        one.key: one
        for one in (
            tensor("x", Role.ACTIVATION, qtype=UINT8),
            tensor("w", Role.WEIGHT, qtype=INT8, granularity=PerAxis(0), reduce_range=True),
            tensor("b", Role.BIAS, qtype=INT32),
        )
    },
    nodes={
        "conv": NodePlan(node="conv", op_type="Conv", kernel=Kernel.COMPUTE, inputs=("x", "w", "b"), outputs=(None,)),
        "flat": NodePlan(node="flat", op_type="Flatten", kernel=Kernel.MOVES, inputs=("x",), outputs=("x",)),
        "relu": NodePlan(node="relu", op_type="Relu", kernel=Kernel.CLIPS, inputs=(None,), outputs=("x",)),
    },
    skips=(Skip("tanh", "Tanh", "[no] kernel"),),
)


def test_rows_tell_types_and_reasons():
    rows = {row.node: row for row in plan_rows(PLAN)}
    assert rows["conv"].what == "uint8 x int8 (7 bits) per channel x int32 -> float"
    assert rows["flat"].what == rows["relu"].what == "uint8"
    assert (rows["tanh"].what, rows["tanh"].why) == ("float", "[no] kernel")


def test_the_table_holds_every_node_and_ends_with_a_sum():
    stream = io.StringIO()
    print_plan(PLAN, Console(file=stream, width=140))
    written = stream.getvalue()
    assert all(row.node in written and row.why in written for row in plan_rows(PLAN))
    assert written.rstrip().endswith("3 of 4 nodes for target cpu in QDQ form: Conv 1, Flatten 1, Relu 1")


def test_json_holds_the_rows():
    assert json.loads(plan_json(PLAN))["nodes"][3] == {
        "node": "tanh",
        "op_type": "Tanh",
        "what": "float",
        "why": "[no] kernel",
    }
