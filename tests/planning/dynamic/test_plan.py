"""The dynamic plan: which weights are one, what they become, and why the rest stays."""

import pytest

from models.build import build
from models.registry import load as load_cases
from tests.emitters import dynamic_models as made
from vqonnx.core.dynamic_plan import DynamicForm, DynamicPlan
from vqonnx.graph.io import load
from vqonnx.planning.dynamic.nodes import DYNAMIC_OPERATORS, find_dynamic_nodes
from vqonnx.planning.dynamic.plan import plan_dynamic
from vqonnx.quantizers.dynamic_options import dynamic_rules
from vqonnx.stages.weights.prepare import prepare_weights

CASES = load_cases()


def planned(model, **options) -> DynamicPlan:
    asked = dict.fromkeys(
        ("weight_type", "per_channel", "reduce_range", "op_types_to_quantize", "nodes_to_quantize", "nodes_to_exclude")
    )
    rules = dynamic_rules(**(asked | {"target": "cpu-x86-vnni", "extra_options": None} | options))
    found, skips = find_dynamic_nodes(prepare_weights(load(model), DYNAMIC_OPERATORS).model)
    return plan_dynamic(found, skips, rules).plan


@pytest.mark.parametrize("name", CASES)
def test_every_node_with_a_weight_is_planned_or_has_a_reason(name):
    plan = planned(CASES[name].build())
    assert not set(plan.nodes) & {skip.node for skip in plan.skips}
    assert all(skip.reason for skip in plan.skips)
    model = prepare_weights(load(CASES[name].build()), DYNAMIC_OPERATORS).model
    nodes = [node for node in model.graph.all_nodes() if node.domain == ""]
    products = {node.name for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul")}
    assert products <= {*plan.nodes, *(skip.node for skip in plan.skips)}


def test_a_tied_table_is_one_weight():
    plan = planned(made.tied())
    (weight,) = plan.weights.values()
    assert weight.readers == ("Gather_0", "Gemm_1")
    assert weight.table
    assert (weight.channels, weight.length) == (20, 8)
    assert [node.form for node in plan.nodes.values()] == [DynamicForm.LOOKUP, DynamicForm.PRODUCT]


def test_a_constant_that_two_lstms_read_is_one_weight():
    text = """g (float[s, n, 6] x, float[s, n, 6] z) => (float[s, 1, n, 5] a, float[s, 1, n, 5] b) {
        a = LSTM <hidden_size = 5> (x, w, r) b = LSTM <hidden_size = 5> (z, w, r)
    }"""
    plan = planned(build(text, made.weights(w=(1, 20, 6), r=(1, 20, 5))))
    assert [weight.readers for weight in plan.weights.values()] == [("LSTM_0", "LSTM_1")] * 2


@pytest.mark.parametrize("target", ["cpu-x86-avx2", "cpu-x86-vnni"])
def test_only_products_give_up_a_bit_where_pairs_saturate(target):
    text = "g (int64[s] i, float[s, 8] x) => (float[s, 8] e, float[s, 4] y) { e = Gather(t, i) y = MatMul(x, w) }"
    plan = planned(build(text, made.weights(t=(20, 8), w=(8, 4))), target=target)
    assert not plan.weights["t"].spec.reduce_range
    assert plan.weights["w"].spec.reduce_range == (target == "cpu-x86-avx2")
    assert not planned(made.product(), target=target, weight_type="QUInt8").weights["w"].spec.reduce_range


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_zero_point_that_channels_share_lies_in_the_middle(per_channel):
    options = {"weight_type": "QUInt8", "per_channel": per_channel, "op_types_to_quantize": ["Conv", "LSTM"]}
    for model in (made.convolution(), made.recurrent("LSTM")):
        specs = [weight.spec for weight in planned(model, **options).weights.values()]
        assert specs
        assert all(spec.symmetric == per_channel for spec in specs)


@pytest.mark.parametrize(
    ("text", "shapes", "reason"),
    [
        ("g (float[2, 4] x, float[4, 3] w) => (float[2, 3] y) { y = MatMul(x, w) }", {}, "its weight is an input"),
        ("g (float[4, 3] x) => (float[2, 3] y) { y = MatMul(w, x) }", {"w": (2, 4)}, "the left one"),
        ("g (float[4] x) => (float[5, 3] y) { y = MatMul(x, w) }", {"w": (5, 4, 3)}, "its input has one axis"),
        (
            "g (float[n, s, 6] x) => (float[n, s, 1, 5] y) { y = LSTM <hidden_size = 5, layout = 1> (x, w, r) }",
            {"w": (1, 20, 6), "r": (1, 20, 5)},
            "batch first",
        ),
    ],
)
def test_what_has_no_form_says_why(text, shapes, reason):
    plan = planned(build(text, made.weights(**shapes)))
    assert not plan.nodes
    assert reason in plan.skips[0].reason


@pytest.mark.parametrize(
    ("embedding", "reason"),
    [
        ({"positions": True}, "it is given positions"),
        ({"outputs": "y, m, e"}, "it gives the sum of its rows"),
    ],
)
def test_an_embedding_that_the_integer_operator_does_not_know_stays_float(embedding, reason):
    plan = planned(made.embedding(**embedding))
    assert not plan.nodes
    assert [reason in skip.reason for skip in plan.skips] == [True]
