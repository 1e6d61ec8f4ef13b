from dataclasses import replace

import numpy as np
import pytest

from tests.planning.npu import NPU, RULES, normal, parsed, planned
from vqonnx.core.granularity import PerAxis
from vqonnx.core.positions import NodeKind, PositionNode
from vqonnx.core.qtype import FLOAT8E4M3FN
from vqonnx.core.spec import ScaleGrid
from vqonnx.planning.position_nodes import position_key, position_nodes
from vqonnx.stages.plan import make_plan

W = normal(6, 4, 3, 3)
B = normal(6)
SIXTH = "HardSigmoid <alpha=0.16666667, beta=0.5>"


def nodes_of(text, constants=None, **arguments):
    model = parsed(text, constants, **arguments)
    return {node.name: node for node in position_nodes(model, planned(model))}


def only(found):
    (node,) = found.values()
    return node


@pytest.mark.parametrize(
    ("behind", "output", "kind"),
    [
        ("y = Conv (x, w, b)", "y", NodeKind.PRODUCT),
        ("c = Conv (x, w, b)\n y = Relu (c)", "y", NodeKind.PRODUCT),
        ("c = Conv (x, w, b)\n y = Clip (c, low, high)", "y", NodeKind.PRODUCT),
        ("c = Conv (x, w, b)\n y = LeakyRelu <alpha=0.1> (c)", "c", NodeKind.LEAKY_PRODUCT),
    ],
)
def test_a_product_ends_behind_its_activation(behind, output, kind):
    constants = {"w": W, "b": B, "low": np.float32(0), "high": np.float32(6)}
    found = only(nodes_of(behind, constants))
    assert (found.kind, found.inputs, found.output, found.weight, found.bias) == (kind, ("x",), output, "w", "b")


def test_a_leaky_relu_that_the_plan_fuses_is_looked_through():
    model = parsed("c = Conv (x, w, b)\n y = LeakyRelu (c)", {"w": W, "b": B})
    plan = planned(model)
    fused = dict(plan.nodes)
    conv, leaky = fused["Conv_c"], fused["LeakyRelu_y"]
    fused["Conv_c"], fused["LeakyRelu_y"] = replace(conv, outputs=(None,)), replace(leaky, inputs=(None,))
    (node, *_) = position_nodes(model, replace(plan, nodes=fused))
    assert (node.kind, node.output) == (NodeKind.LEAKY_PRODUCT, "y")


def test_a_matmul_and_its_add_are_one_product():
    text = "m = MatMul (x, w)\n y = Add (m, b)"
    found = nodes_of(text, {"w": normal(8, 5), "b": normal(5)})
    assert only(found) == PositionNode(
        name="MatMul_m", kind=NodeKind.PRODUCT, inputs=("x",), output="y", weight="w", bias="b"
    )


def test_a_matmul_of_two_activations_has_no_weight_to_move():
    target = replace(
        NPU, ops={**NPU.ops, "MatMul": replace(NPU.ops["MatMul"], activations=(0, 1), dynamic_weight=True)}
    )
    model = parsed("y = MatMul (x, x)")
    plan = make_plan(model, target, RULES)
    assert "MatMul_y" in plan.nodes
    assert position_nodes(model, plan) == []


def test_an_int32_bias_has_no_position_of_its_own():
    model = parsed("y = Conv (x, w, b)", {"w": W, "b": B})
    (node,) = position_nodes(model, planned(model, own_biases=False))
    assert node.bias is None


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("y = Add (x, x)", NodeKind.ADD),
        ("y = Sub (x, c)", NodeKind.SUB),
        ("y = Mul (x, c)", NodeKind.MUL),
        ("y = Concat <axis=1> (x, c)", NodeKind.CONCAT),
        ("y = MaxPool <kernel_shape=[2,2]> (x)", NodeKind.POOL),
        ("y = AveragePool <kernel_shape=[3,3]> (x)", NodeKind.POOL),
        ("y = GlobalAveragePool (x)", NodeKind.POOL),
        ("y = Pad (x, pads)", NodeKind.PAD),
        (f"y = {SIXTH} (x)", NodeKind.HARD_SIGMOID),
    ],
)
def test_kinds_follow_operators(text, kind):
    pads = np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)
    found = only(nodes_of(text, {"c": normal(1, 4, 8, 8), "pads": pads} if "c)" in text or "pads" in text else {}))
    assert (found.kind, found.output, found.inputs[0]) == (kind, "y", "x")
    assert ("c" in found.inputs) == ("c)" in text)


def test_a_hard_sigmoid_of_another_slope_is_not_the_devices():
    assert nodes_of("y = HardSigmoid (x)") == {}


@pytest.mark.parametrize("factor", [False, True])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_swish_is_known_by_its_gate(factor, swapped):
    gate = f"h = {SIXTH} (x)\n g = {'Mul (h, c)' if factor else 'Identity (h)'}"
    text = f"{gate}\n y = Mul ({'g, x' if swapped else 'x, g'})"
    found = nodes_of(text, {"c": np.float32(1.0001)} if factor else {})
    assert found["Mul_y"].kind is NodeKind.SWISH
    assert set(found["Mul_y"].inputs) >= {"x"}


def test_a_product_of_two_other_tensors_is_no_swish():
    found = nodes_of(f"h = {SIXTH} (z)\n y = Mul (x, h)", inputs="float[2] x, float[2] z")
    assert found["Mul_y"].kind is NodeKind.MUL


def test_the_factor_of_an_average_belongs_to_it():
    model = parsed("p = GlobalAveragePool (x)\n y = Mul (p, c)", {"c": np.float32(1.01)})
    plan = planned(model)
    nodes = dict(plan.nodes)
    nodes["GlobalAveragePool_p"] = replace(nodes["GlobalAveragePool_p"], outputs=(None,))
    nodes["Mul_y"] = replace(nodes["Mul_y"], inputs=(None, None))
    found = position_nodes(model, replace(plan, nodes=nodes))
    assert [(node.kind, node.output) for node in found] == [(NodeKind.POOL, "y")]


def test_data_movers_share_the_key_of_their_group():
    found = nodes_of("a = Add (x, x)\n t = Transpose <perm=[0,2,3,1]> (a)\n y = Add (t, t)")
    assert found["Transpose_t"].inputs == (found["Transpose_t"].output,)
    assert found["Add_y"].inputs[0] == found["Transpose_t"].output


def test_what_is_not_quantized_has_no_part():
    model = parsed("s = Sin (x)\n y = Add (s, x)")
    plan = planned(model)
    add = replace(plan.nodes["Add_y"], inputs=(None, "x"))
    assert position_nodes(model, replace(plan, nodes={"Add_y": add})) == []
    assert position_key(plan, None) is None


@pytest.mark.parametrize("change", [{"grid": ScaleGrid.FREE}, {"granularity": PerAxis(0)}, {"qtype": FLOAT8E4M3FN}])
def test_only_one_power_of_two_for_an_integer_tensor_is_a_position(change):
    model = parsed("y = Conv (x, w, b)", {"w": W, "b": B})
    plan = planned(model)
    weight = replace(plan.tensors["w"], spec=replace(plan.tensors["w"].spec, **change))
    (node,) = position_nodes(model, replace(plan, tensors={**plan.tensors, "w": weight}))
    assert node.weight is None
