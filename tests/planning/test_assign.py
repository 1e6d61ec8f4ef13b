"""The quantized form of each tensor: shared scales, one form a meaning, and what users fix."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from models.build import Weights, build
from models.convolutions import conv_transpose
from models.matmuls import linear_bias, matmul
from models.sharing import both_ways, one_bias, one_weight, tied_embedding, weight_and_value
from tests.quantizers.flow import EAGER, plan_of
from vqonnx.core.granularity import PerAxis, PerTensor
from vqonnx.core.plan import Plan, Role, TensorPlan
from vqonnx.core.qtype import INT8, INT16, INT32, UINT8, UINT16
from vqonnx.core.target import OpSupport
from vqonnx.errors import OptionError


def forms(plan: Plan, tensor: str) -> list[TensorPlan]:
    return [form for form in plan.tensors.values() if form.tensor == tensor]


def chain(middle: str, **more: Any) -> onnx.ModelProto:
    """Two convolutions of 4 channels, with ``middle`` from h to m between them."""
    weights = Weights(0)
    weights.conv("a", 4, 4, 3, 3)
    weights.conv("b", 4, 4, 3, 3)
    text = f"""g (float[N, 4, 6, 6] x) => (float[N, 4, P, Q] y) {{
        h = Conv <pads = [1, 1, 1, 1]> (x, a_w, a_b)
        {middle}
        y = Conv <pads = [1, 1, 1, 1]> (m, b_w, b_b)
    }}"""
    return build(text, {**weights.arrays, **more})


def overridden(model: onnx.ModelProto, **overrides: Any) -> Plan:
    return plan_of(model, extra_options={"TensorQuantOverrides": overrides})


# ---- scales ----


@pytest.mark.parametrize(
    ("middle", "more"),
    [
        ("m = Transpose <perm = [0, 1, 3, 2]> (h)", {}),
        ("m = Reshape (h, to)", {"to": np.array([0, 4, 6, 6])}),
        ("m = MaxPool <kernel_shape = [2, 2]> (h)", {}),
        ("m = Slice (h, first, last, axes)", {"first": np.array([0]), "last": np.array([3]), "axes": np.array([2])}),
    ],
)
def test_a_mover_keeps_the_scale_of_its_input(middle: str, more: dict[str, Any]) -> None:
    plan = plan_of(chain(middle, **more))
    moved, source = plan.tensors["m"], plan.tensors["h"]
    assert moved.group == source.group == "h"
    assert moved.method is None  # its values are among those of h, so it is not measured
    assert source.method is not None


def test_a_chain_of_movers_is_one_group() -> None:
    middle = "t = Transpose <perm = [0, 1, 3, 2]> (h)\nu = MaxPool <kernel_shape = [2, 2]> (t)\nm = Identity (u)"
    plan = plan_of(chain(middle))
    assert {form.group for form in plan.activations() if form.tensor in "htum"} == {"h"}


def test_inputs_of_a_concat_share_a_scale_only_where_the_target_says_so() -> None:
    model = chain("s = Sigmoid (h)\nk = Concat <axis = 2> (h, s)\nm = Sigmoid (k)")
    shared = plan_of(model)
    assert {shared.tensors[name].group for name in "hsk"} == {"h"}
    assert all(shared.tensors[name].method is not None for name in "hs")  # each is measured, the union counts
    own = plan_of(model, replace(EAGER, ops={**EAGER.ops, "Concat": OpSupport()}))
    assert {own.tensors[name].group for name in "hsk"} == {"h", "s", "k"}


def test_an_operator_may_know_the_range_of_its_output() -> None:
    bounded = plan_of(chain("m = Softmax (h)")).tensors["m"]
    assert (bounded.bounds, bounded.method) == ((0.0, 1.0), None)


def test_a_clip_hands_the_range_to_its_output() -> None:
    plan = plan_of(chain("m = Relu (h)"))
    assert plan.nodes["Conv_0"].outputs == (None,)
    assert plan.nodes["Relu_1"].outputs == ("m",)
    assert "h" not in plan.tensors


# ---- weights and biases ----


@pytest.mark.parametrize("operator", ["Gemm", "MatMul"])
def test_a_tied_table_is_quantized_where_it_is_a_weight_and_nowhere_else(operator: str) -> None:
    plan = plan_of(tied_embedding(operator))
    weights = [form for form in plan.tensors.values() if form.role is Role.WEIGHT]
    assert len(weights) == 2
    assert not any(name.startswith("Gather") for name in plan.nodes)
    axes = {form.tensor: form.spec.granularity for form in weights}
    assert axes["a_w"] == PerAxis(1)
    (other,) = set(axes) - {"a_w"}
    assert axes[other] == PerAxis(0 if operator == "Gemm" else 1)


def test_a_weight_read_both_ways_has_a_form_for_each() -> None:
    plan = plan_of(both_ways())
    assert {form.key: form.spec.granularity for form in forms(plan, "a_w")} == {
        "a_w": PerAxis(1),
        "a_w_2": PerAxis(0),
    }
    assert [node.inputs[1] for node in plan.nodes.values() if node.op_type == "Gemm"] == ["a_w", "a_w_2"]


def test_a_weight_read_one_way_twice_has_one_form_but_a_bias_for_each_input() -> None:
    plan = plan_of(one_weight())
    assert [form.key for form in forms(plan, "c_w")] == ["c_w"]
    assert [form.scale_of for form in forms(plan, "c_b")] == [("x", "c_w"), ("r", "c_w")]


def test_one_bias_under_two_inputs_has_two_forms() -> None:
    plan = plan_of(one_bias())
    assert [form.scale_of for form in forms(plan, "c_b")] == [("x", "c_w"), ("big", "d_w")]
    assert {form.spec.qtype for form in forms(plan, "c_b")} == {INT32}


def test_a_weight_that_is_also_added_has_a_form_for_each_role() -> None:
    plan = plan_of(weight_and_value(), extra_options={"ForceQuantizeNoInputCheck": True})
    specs = {form.key: (form.spec.qtype, form.spec.granularity) for form in forms(plan, "w")}
    assert specs == {"w": (INT8, PerAxis(1)), "w_2": (UINT8, PerTensor())}


@pytest.mark.parametrize(
    ("rank", "granularity"),
    [("2d", PerAxis(1)), ("3d_shared", PerAxis(1)), ("3d", PerTensor()), ("4d", PerTensor()), ("vector", PerTensor())],
)
def test_a_matmul_weight_has_a_scale_a_column_only_as_a_matrix(rank: str, granularity: object) -> None:
    assert plan_of(matmul(rank)).tensors["w"].spec.granularity == granularity
    assert plan_of(matmul(rank), per_channel=False).tensors["w"].spec.granularity == PerTensor()


def test_the_add_behind_a_matmul_is_its_bias_in_both_orders() -> None:
    plan = plan_of(linear_bias())
    first, second = (plan.nodes[name] for name in ("Add_1", "Add_4"))
    assert first.inputs == (None, "a_b")
    assert second.inputs == ("b_b", None)
    assert [plan.tensors[key].scale_of for key in ("a_b", "b_b")] == [("x", "a_w"), ("r", "b_w")]
    assert plan.nodes["MatMul_0"].outputs == (None,)
    assert "Add_5" not in plan.nodes  # a residual, not a bias


@pytest.mark.parametrize(("groups", "axis"), [(1, 1), (2, 1), (4, 1)])
def test_the_bias_of_a_grouped_transposed_convolution_repeats_the_weights_scale(groups: int, axis: int) -> None:
    plan = plan_of(conv_transpose(groups))
    assert plan.tensors["w"].spec.granularity == PerAxis(axis)
    assert plan.tensors["b"].repeats == groups
    assert plan_of(conv_transpose(groups), per_channel=False).tensors["b"].repeats == 1


def test_biases_may_stay_float() -> None:
    plan = plan_of(linear_bias(), extra_options={"QuantizeBias": False})
    assert not [form for form in plan.tensors.values() if form.role is Role.BIAS]


def test_a_key_that_another_tensor_has_as_its_name_is_not_reused() -> None:
    # The second form of a_w would be called a_w_2, as the activation is that comes later.
    model = both_ways()
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["a_w_2" if name == "r" else name for name in names]
    onnx.checker.check_model(model)
    plan = plan_of(model)
    assert [form.role for form in forms(plan, "a_w_2")] == [Role.ACTIVATION]
    assert [form.role for form in forms(plan, "a_w")] == [Role.WEIGHT, Role.WEIGHT]
    assert len(plan.tensors) == len({form.key for form in plan.tensors.values()})


# ---- overrides ----


def test_a_type_symmetry_and_one_bit_less_may_be_asked_for() -> None:
    plan = overridden(
        linear_bias(),
        x=[{"quant_type": "QUInt16"}],
        r=[{"symmetric": True, "quant_type": "QInt8"}],
        a_w=[{"reduce_range": True}],
    )
    assert plan.tensors["x"].spec.qtype == UINT16
    assert (plan.tensors["r"].spec.qtype, plan.tensors["r"].spec.symmetric) == (INT8, True)
    assert (plan.tensors["a_w"].spec.qmin, plan.tensors["a_w"].spec.qmax) == (-64, 64)
    assert plan.tensors["b_w"].spec.reduce_range is False


def test_a_range_may_be_given_instead_of_measured() -> None:
    form = overridden(linear_bias(), x=[{"rmin": -1, "rmax": np.float32(2.5)}]).tensors["x"]
    assert (form.bounds, form.method) == ((-1.0, 2.5), None)


@pytest.mark.parametrize(("scale", "zero_point"), [(0.5, 3), (np.float32(0.5), np.uint8(3)), ([0.5], [3])])
def test_scale_and_zero_point_may_be_pythons_or_numpys_numbers(scale: Any, zero_point: Any) -> None:
    form = overridden(linear_bias(), x=[{"scale": scale, "zero_point": zero_point}]).tensors["x"]
    assert form.fixed is not None
    assert [part.tolist() for part in form.fixed] == [[0.5], [3]]
    assert form.method is None


def test_a_weight_may_have_another_axis_and_then_no_int32_bias() -> None:
    plan = overridden(linear_bias(), a_w=[{"axis": 0}])
    assert plan.tensors["a_w"].spec.granularity == PerAxis(0)
    assert "a_b" not in plan.tensors  # its scale would be one an input
    assert plan.tensors["b_b"].scale_of == ("r", "b_w")
    assert overridden(linear_bias(), a_w=[{"axis": -1}]).tensors["a_b"].scale_of == ("x", "a_w")


def test_a_weight_may_have_a_scale_a_channel_of_its_own() -> None:
    entries = [{"axis": 1, "scale": 0.1, "zero_point": 0}, *({"scale": 0.2, "zero_point": 0} for _ in range(7))]
    form = overridden(linear_bias(), a_w=entries).tensors["a_w"]
    assert form.fixed is not None
    assert form.fixed[0].tolist() == [0.1, *[0.2] * 7]


def test_a_conversion_serves_some_readers_only() -> None:
    two_readers = build(
        """g (float[N, 4, 6, 6] x) => (float[N, 4, 4, 4] y, float[N, 4, 4, 4] z) {
            y = Conv (x, a_w, a_b)
            z = Conv (x, b_w, b_b)
        }""",
        _two_convs(),
    )
    convert = {"quant_type": "QUInt16", "recv_nodes": {"Conv_1"}, "symmetric": False}
    plan = overridden(two_readers, x=[{"quant_type": "QUInt8", "convert": convert}])
    assert [node.inputs[0] for node in plan.nodes.values()] == ["x", "x_uint16"]
    converted = plan.tensors["x_uint16"]
    assert (converted.spec.qtype, converted.converted_from, converted.group) == (UINT16, "x", "x_uint16")
    assert converted.method is not None
    everyone = overridden(two_readers, x=[{"convert": {"quant_type": "QInt16"}}])
    assert [node.inputs[0] for node in everyone.nodes.values()] == ["x_int16", "x_int16"]
    assert everyone.tensors["x_int16"].spec.qtype == INT16


@pytest.mark.parametrize(
    ("keys", "bounds", "fixed"),
    [
        ({"rmin": -2.0, "rmax": 3.0}, (-2.0, 3.0), None),
        ({"scale": 0.25, "zero_point": 7}, None, ([0.25], [7])),
    ],
)
def test_a_conversion_may_have_numbers_of_its_own(keys: dict[str, Any], bounds: Any, fixed: Any) -> None:
    plan = overridden(linear_bias(), x=[{"convert": {"quant_type": "QUInt16", **keys}}])
    form = plan.tensors["x_uint16"]
    assert form.bounds == bounds
    assert (form.fixed and tuple(part.tolist() for part in form.fixed)) == fixed
    assert form.method is None
    assert plan.tensors["x"].method is not None


def _two_convs() -> dict[str, Any]:
    weights = Weights(0)
    weights.conv("a", 4, 4, 3, 3)
    weights.conv("b", 4, 4, 3, 3)
    return weights.arrays


@pytest.mark.parametrize(
    ("tensor", "entries", "message"),
    [
        ("x", [{"scale": 1.0, "zero_point": 256}], "'x' zero_point [256] does not fit uint8"),
        ("a_w", [{"axis": 1, "scale": 1.0, "zero_point": -129}], "'a_w' zero_point [-129] does not fit int8"),
        ("x", [{"scale": [1.0, 2.0], "zero_point": [0, 0]}], "'x' has 2 scales, but only weights take one a channel"),
        ("x", [{"scale": [1.0, 2.0], "zero_point": [0]}], "'x' has 2 scales but 1 zero points"),
        ("a_w", [{"axis": 2}], "'a_w' has rank 2, so no axis 2"),
        ("x", [{"convert": {"quant_type": "QInt8", "recv_nodes": ["MatMul0"]}}], "which is no node of the model (did"),
    ],
)
def test_an_override_that_does_not_fit_is_an_error(tensor: str, entries: Any, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        overridden(linear_bias(), **{tensor: entries})
    assert message in str(caught.value)
    assert caught.value.option == "TensorQuantOverrides"
