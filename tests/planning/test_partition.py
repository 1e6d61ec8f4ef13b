"""Light operators, movers and clips become integer only where integer nodes stand around them."""

from dataclasses import replace

import onnx
import pytest

from models.build import Weights, build
from tests.quantizers.flow import EAGER, plan_of, reasons
from vqonnx.core.target import Form, Kernel, OpSupport
from vqonnx.targets.cpu import CPU_X86_VNNI

FLOAT_BEFORE = "not worth a conversion to integers: an input comes from a float node"
FLOAT_AFTER = "not worth a conversion to integers: only float nodes read its output"
NO_MAKER = "no integer node gives it its only input"


def conv_model(body: str, outputs: str = "float[N, 4, 6, 6] y") -> onnx.ModelProto:
    """Convolutions ``a`` and ``b`` of 4 channels are at hand as weights."""
    weights = Weights(0)
    for name in "abc":
        weights.conv(name, 4, 4, 3, 3)
    used = {name: array for name, array in weights.arrays.items() if f", {name}" in body}
    return build(f"g (float[N, 4, 6, 6] x) => ({outputs}) {{\n{body}\n}}", used)


def conv(output: str, source: str, name: str) -> str:
    return f"{output} = Conv <pads = [1, 1, 1, 1]> ({source}, {name}_w, {name}_b)"


@pytest.mark.parametrize(
    ("body", "planned", "reason"),
    [
        # Between two integer nodes, and not between an integer and a float one.
        ([conv("h", "x", "a"), "s = Sigmoid (h)", conv("y", "s", "b")], True, ""),
        ([conv("h", "x", "a"), "s = Sigmoid (h)", "y = Tanh (s)"], False, FLOAT_AFTER),
        (["h = Tanh (x)", "s = Sigmoid (h)", conv("y", "s", "b")], False, FLOAT_BEFORE),
        (["s = Sigmoid (x)", conv("y", "s", "b")], False, FLOAT_BEFORE),
        ([conv("h", "x", "a"), "y = Sigmoid (h)"], False, FLOAT_AFTER),
        # Chains stand or fall together.
        ([conv("h", "x", "a"), "s = Sigmoid (h)", "t = Sigmoid (s)", conv("y", "t", "b")], True, ""),
        ([conv("h", "x", "a"), "s = Sigmoid (h)", "t = Sigmoid (s)", "y = Tanh (t)"], False, FLOAT_AFTER),
        (["h = Tanh (x)", "t = Sigmoid (h)", "s = Sigmoid (t)", conv("y", "s", "b")], False, FLOAT_BEFORE),
        # Movers too.
        ([conv("h", "x", "a"), "s = Transpose <perm = [0, 1, 3, 2]> (h)", conv("y", "s", "b")], True, ""),
        ([conv("h", "x", "a"), "y = Transpose <perm = [0, 1, 3, 2]> (h)"], False, FLOAT_AFTER),
    ],
)
def test_a_light_operator_is_integer_between_integers(body: list[str], planned: bool, reason: str) -> None:
    plan = plan_of(conv_model("\n".join(body)))
    light = {name for name in [*plan.nodes, *reasons(plan)] if name.startswith(("Sigmoid", "Transpose"))}
    assert {name in plan.nodes for name in light} == {planned}
    assert {reasons(plan).get(name, "") for name in light} <= {reason, FLOAT_BEFORE, FLOAT_AFTER, ""}
    assert not reason or reason in {reasons(plan)[name] for name in light}


def test_both_inputs_of_an_addition_must_be_integers() -> None:
    both = conv_model("\n".join([conv("h", "x", "a"), conv("i", "x", "b"), "s = Add (h, i)", conv("y", "s", "c")]))
    one = conv_model("\n".join([conv("h", "x", "a"), "i = Tanh (x)", "s = Add (h, i)", conv("y", "s", "c")]))
    assert "Add_2" in plan_of(both).nodes
    assert reasons(plan_of(one))["Add_2"] == FLOAT_BEFORE


def test_an_elementwise_constant_is_no_float_input() -> None:
    weights = Weights(0)
    weights.conv("a", 4, 4, 3, 3)
    weights.conv("b", 4, 4, 3, 3)
    weights.bias("factor", 1, 4, 1, 1)
    body = [conv("h", "x", "a"), "s = Sigmoid (h)", "m = Mul (s, factor)", conv("y", "m", "b")]
    text = "g (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y) {\n" + "\n".join(body) + "\n}"
    assert {"Sigmoid_1", "Mul_2"} <= set(plan_of(build(text, weights.arrays)).nodes)


def test_everything_takes_light_operators_but_no_movers() -> None:
    model = conv_model("s = Sigmoid (x)\nt = Transpose <perm = [0, 1, 3, 2]> (s)\ny = Tanh (t)")
    plan = plan_of(model, extra_options={"ForceQuantizeNoInputCheck": True})
    assert set(plan.nodes) == {"Sigmoid_0"}
    assert reasons(plan)["Transpose_1"] == FLOAT_AFTER
    assert not plan_of(model).nodes


@pytest.mark.parametrize(
    ("body", "moved"),
    [
        ("t = Transpose <perm = [0, 1, 3, 2]> (x)\ny = Sigmoid (t)", {"Transpose_0"}),
        (
            "s = Sigmoid (x)\nt = Transpose <perm = [0, 2, 1, 3]> (s)\ny = Transpose <perm = [0, 1, 3, 2]> (t)",
            {"Transpose_1", "Transpose_2"},
        ),
        (
            "n = Neg (x)\nt = Transpose <perm = [0, 2, 1, 3]> (n)\nu = Transpose (t)\ny = Neg (u)",
            set(),
        ),
    ],
)
def test_a_device_for_whole_graphs_moves_data_beside_what_it_computes(body: str, moved: set[str]) -> None:
    plan = plan_of(conv_model(body), "vitis-npu-cnn")
    movers = {name for name, node in plan.nodes.items() if node.kernel is Kernel.MOVES}
    assert movers == moved
    for node in (plan.nodes[name] for name in moved):
        source, output = (plan.tensors[key or ""] for key in (node.inputs[0], node.outputs[0]))
        assert source.group == output.group  # one scale, so that no number changes
    blocks = plan_of(conv_model(body), "vitis", activation_type="QBFP16", weight_type="QBFP16")
    assert not moved & set(blocks.nodes)  # which would lie along other axes behind the mover


def test_everything_takes_clips_that_stand_alone() -> None:
    model = conv_model("r = Relu (x)\nt = Tanh (r)\nu = Relu (t)\ns = Sigmoid (u)\ny = Relu (s)")
    plan = plan_of(model, extra_options={"ForceQuantizeNoInputCheck": True})
    assert {name: node.kernel is Kernel.COMPUTE for name, node in plan.nodes.items()} == {
        "Relu_0": True, "Relu_2": True, "Sigmoid_3": True, "Relu_4": False,
    }  # fmt: skip
    assert None not in (*plan.nodes["Relu_2"].inputs, *plan.nodes["Relu_2"].outputs)
    integer = plan_of(model, extra_options={"ForceQuantizeNoInputCheck": True}, form=Form.QOPERATOR)
    assert set(integer.nodes) == {"Sigmoid_3", "Relu_4"}


@pytest.mark.parametrize(
    ("body", "outputs", "planned"),
    [
        ([conv("h", "x", "a"), "y = Relu (h)"], "float[N, 4, 6, 6] y", True),
        ([conv("h", "x", "a"), "y = Relu (h)"], "float[N, 4, 6, 6] h, float[N, 4, 6, 6] y", False),
        ([conv("h", "x", "a"), "r = Relu (h)", "y = Add (r, h)"], "float[N, 4, 6, 6] y", False),
        (["h = Tanh (x)", "y = Relu (h)"], "float[N, 4, 6, 6] y", False),
        (["y = Relu (x)"], "float[N, 4, 6, 6] y", False),
    ],
)
def test_a_clip_needs_an_integer_node_that_feeds_it_alone(body: list[str], outputs: str, planned: bool) -> None:
    plan = plan_of(conv_model("\n".join(body), outputs))
    assert ("Relu_1" in plan.nodes) is planned
    assert planned or {r for name, r in reasons(plan).items() if name.startswith("Relu")} == {NO_MAKER}


def test_a_clip_behind_a_free_float_output_stays_float() -> None:
    weights = Weights(0)
    weights.linear("a", 8, 8)
    text = "g (float[N, S, 8] x) => (float[N, S, 8] y) {\nh = MatMul (x, a_w)\ny = Relu (h)\n}"
    plan = plan_of(build(text, {"a_w": weights.arrays["a_w"]}))
    assert reasons(plan)["Relu_1"] == "the node before it gives a float output for free"
    assert plan.nodes["MatMul_0"].outputs == (None,)


def test_a_linear_layer_that_stays_float_names_both_of_its_nodes() -> None:
    weights = Weights(0)
    weights.linear("a", 8, 8)
    text = "g (float[N, 8] x) => (float[N, 8] y) {\nm = MatMul (x, a_w)\ns = Add (m, a_b)\ny = Tanh (s)\n}"
    picky = replace(CPU_X86_VNNI, ops={**CPU_X86_VNNI.ops, "MatMul": replace(EAGER.ops["MatMul"], heavy_from=99)})
    assert {
        name: reason
        for name, reason in reasons(plan_of(build(text, weights.arrays), picky)).items()
        if name != "Tanh_2"
    } == {
        "MatMul_0": FLOAT_BEFORE,
        "Add_1": f"the product before it stays float: {FLOAT_BEFORE}",
    }


@pytest.mark.parametrize(
    ("exclude", "planned"), [(["Add_1"], {"MatMul_0"}), (["MatMul_0"], set()), (["Add_1", "MatMul_0"], set())]
)
def test_half_a_linear_layer_may_be_excluded(exclude: list[str], planned: set[str]) -> None:
    weights = Weights(0)
    weights.linear("a", 8, 8)
    text = "g (float[N, S, 8] x) => (float[N, S, 8] y) {\nm = MatMul (x, a_w)\ns = Add (m, a_b)\ny = Tanh (s)\n}"
    plan = plan_of(build(text, weights.arrays), nodes_to_exclude=exclude)
    assert set(plan.nodes) == planned
    assert {name for name, reason in reasons(plan).items() if "nodes_to_exclude" in reason} == set(exclude)


def test_the_largest_set_is_found_whatever_the_order() -> None:
    # Each Sigmoid waits for the other's fate: the loop of removals must not depend on where it starts.
    body = [conv("h", "x", "a"), "s = Sigmoid (h)", "t = Sigmoid (s)", "u = Add (s, t)", conv("y", "u", "b")]
    assert set(plan_of(conv_model("\n".join(body))).nodes) == {"Conv_0", "Sigmoid_1", "Sigmoid_2", "Add_3", "Conv_4"}
    nowhere = [*body[:-1], "y = Tanh (u)"]
    assert set(plan_of(conv_model("\n".join(nowhere))).nodes) == {"Conv_0"}


def test_a_target_may_count_a_light_operator_as_heavy() -> None:
    model = conv_model("s = Sigmoid (x)\ny = Tanh (s)")
    target = replace(EAGER, ops={**EAGER.ops, "Sigmoid": OpSupport(kernel=Kernel.COMPUTE, heavy_from=1)})
    assert set(plan_of(model, target).nodes) == {"Sigmoid_0"}


@pytest.mark.parametrize(
    ("body", "between"),
    [
        ([conv("h", "x", "a"), "y = Relu (h)"], False),
        (["h = Mul (x, x)", "y = Relu (h)"], True),
        (["h = Add (x, x)", "y = Clip (h, zero, six)"], False),
        (["h = Add (x, x)", "y = Clip (h, zero, five)"], True),
    ],
)
def test_the_npu_computes_few_activations_with_what_is_before_them(body: list[str], between: bool) -> None:
    bounds = [
        f"{name} = Constant <value_float = {value}.0> ()" for name, value in (("zero", 0), ("five", 5), ("six", 6))
    ]
    plan = plan_of(conv_model("\n".join([*bounds, *body])), "vitis")
    first, second = plan.nodes.values()
    assert (first.outputs[0] is not None) is between
    assert (second.inputs[0] is not None) is between
