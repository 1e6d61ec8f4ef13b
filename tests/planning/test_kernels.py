"""What the QOperator form cannot write is refused or left float, with the reason."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest

from models.build import Weights, build
from models.gemm import gemm
from models.matmuls import linear_bias
from tests.quantizers.flow import EAGER, plan_of, reasons
from vqonnx.core.target import Form
from vqonnx.errors import OptionError
from vqonnx.targets.cpu import CPU_X86_VNNI

WEIGHTS = Weights(0)
for _name in "ab":
    WEIGHTS.conv(_name, 4, 4, 1, 1)
QOPERATOR = {"form": Form.QOPERATOR}


def between(line: str, shape: str = "N, 4, 6, 6", opset: int = 17, **constants: Any) -> onnx.ModelProto:
    """Two convolutions with something between them."""
    text = (
        f"g (float[N, 4, 6, 6] x) => (float[{shape}] y) {{\nh = Conv (x, a_w, a_b)\n{line}\ny = Conv (m, b_w, b_b)\n}}"
    )
    return build(text, {**WEIGHTS.arrays, **constants}, opset=opset)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            {"activation_type": "QInt16"},
            "it would be int16 x int8, and there is uint8 x int8, uint8 x uint8, int8 x int8",
        ),
        ({"activation_type": "QUInt16"}, "it would be uint16 x int8, and there is"),
        ({"weight_type": "QInt4"}, "it would be uint8 x int4, and there is"),
        ({"weight_type": "QInt16"}, "it would be uint8 x int16, and there is"),
        ({"activation_type": "QInt8", "weight_type": "QUInt8"}, "it would be int8 x uint8, and there is"),
        ({"extra_options": {"QuantizeBias": False}}, "its bias would stay float, and must be int32"),
        (
            {"extra_options": {"TensorQuantOverrides": {"m": [{"quant_type": "QInt8"}]}}},
            "its activations would be int8 and uint8, which must be of one type",
        ),
        (
            {"extra_options": {"WeightSymmetric": False}},
            "each channel of its weight would have a zero point of its own (WeightSymmetric gives them one)",
        ),
        (
            {"extra_options": {"TensorQuantOverrides": {"a_w": [{"axis": 1}]}}},
            "its weight would have a scale an index of axis 1, which is not that of its outputs",
        ),
    ],
)
def test_what_no_kernel_does_is_refused(arguments: dict[str, Any], reason: str) -> None:
    model = between("m = Relu (h)")
    assert plan_of(model, **arguments).nodes  # in QDQ form it may be had
    with pytest.raises(OptionError) as caught:
        plan_of(model, **QOPERATOR, **arguments)
    assert str(caught.value).startswith("quant_format: no integer operator does what is asked of Conv 'Conv_0': ")
    assert reason in str(caught.value)
    assert "nodes_to_exclude" in str(caught.value)
    assert caught.value.option == "quant_format"


def test_a_node_that_is_left_out_is_not_asked_about() -> None:
    overrides = {"TensorQuantOverrides": {"a_w": [{"axis": 1}]}}
    plan = plan_of(between("m = Relu (h)"), **QOPERATOR, nodes_to_exclude=["Conv_0"], extra_options=overrides)
    assert set(plan.nodes) == {"Conv_2"}


@pytest.mark.parametrize("model", [linear_bias(), gemm((5,), trans_b=True)], ids=["matmul", "gemm"])
def test_a_weight_quantized_per_tensor_has_kernels_too(model: onnx.ModelProto) -> None:
    plan = plan_of(model, **QOPERATOR, per_channel=False)
    assert plan.form is Form.QOPERATOR
    assert plan.nodes


def test_a_target_without_the_form_is_refused() -> None:
    with pytest.raises(OptionError, match="target eager has no operators in QOperator form; it has QDQ"):
        plan_of(linear_bias(), replace(EAGER, other_ops={}), **QOPERATOR)


ZERO = np.asarray([0, 0, 1, 1, 0, 0, 1, 1], np.int64)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (between("m = Pad (h, p, v)", "N, 4, 8, 8", p=ZERO, v=np.float32(-1)), "it fills with -1, which the range"),
        (between('m = Resize <mode = "linear"> (h, , s)', s=np.ones(4, np.float32)), "does not take mode=linear"),
        (
            between("m = AveragePool <kernel_shape = [1, 1], dilations = [2, 2]> (h)", opset=19),
            "its integer kernel does not take dilations=(2, 2)",
        ),
    ],
)
def test_a_form_of_an_operator_that_no_kernel_takes_stays_float(model: onnx.ModelProto, reason: str) -> None:
    plan = plan_of(model, **QOPERATOR)
    (middle,) = [one for one in model.graph.node if one.op_type != "Conv"]
    assert reason in reasons(plan)[middle.name]
    assert set(plan.nodes) == {"Conv_0", "Conv_2"}


def test_a_fill_value_that_is_computed_stays_float() -> None:
    text = """g (float[N, 4, 6, 6] x, float v) => (float[N, 4, 8, 8] y) {
        h = Conv (x, a_w, a_b)
        m = Pad (h, p, v)
        y = Conv (m, b_w, b_b)
    }"""
    plan = plan_of(build(text, {**WEIGHTS.arrays, "p": ZERO}), **QOPERATOR)
    assert reasons(plan)["Pad_1"] == "what it fills with is computed at run time"


@pytest.mark.parametrize("line", ["m = Pad (h, p)", "m = Pad (h, p, v)", 'm = Pad <mode = "edge"> (h, p)'])
def test_zeros_and_edges_are_in_every_range(line: str) -> None:
    constants = {"p": ZERO, **({"v": np.float32(0)} if "v" in line else {})}
    assert "Pad_1" in plan_of(between(line, "N, 4, 8, 8", **constants), **QOPERATOR).nodes


@pytest.mark.parametrize(("axis", "stays"), [(1, False), (2, True), (-1, True)])
def test_a_softmax_of_one_element_stays_float(axis: int, stays: bool) -> None:
    text = f"""g (float[N, 4, 1] x) => (float[N, 4, 1] y) {{
        h = MatMul (x, w) m = Softmax <axis = {axis}> (h) y = MatMul (m, w)
    }}"""
    plan = plan_of(build(text, {"w": np.ones((1, 1), np.float32)}), **QOPERATOR)
    assert ("it normalizes one element" in reasons(plan).get("Softmax_1", "")) == stays


def attention(attributes: str = "", extra: str = "") -> onnx.ModelProto:
    weights = Weights(0)
    weights.linear("q", 8, 24)
    text = f"""g (float[2, 5, 8] x, float[2, 2, 5, 5] e) => (float[2, 5, 8] y) {{
        y = com.microsoft.Attention <num_heads = 2{attributes}> (x, q_w, q_b{extra})
    }}"""
    return build(text, weights.arrays, domains={"com.microsoft": 1})


def test_attention_is_taken_as_far_as_its_kernel_goes() -> None:
    assert plan_of(attention(), **QOPERATOR).nodes
    assert reasons(plan_of(attention(", qkv_hidden_sizes = [8, 8, 8]"), **QOPERATOR))["Attention_0"] == (
        "its integer kernel does not take qkv_hidden_sizes=(8, 8, 8)"
    )
    assert reasons(plan_of(attention("", ", , , e"), **QOPERATOR))["Attention_0"] == (
        "its integer kernel does not take input 5"
    )
    assert "no integer kernel for com.microsoft::Attention" in reasons(plan_of(attention()))["Attention_0"]


def test_slow_operators_are_quantized_on_request_only() -> None:
    model = between("m = AveragePool <kernel_shape = [1, 1]> (h)")
    target = replace(
        EAGER, other_ops={Form.QOPERATOR: {**CPU_X86_VNNI.other_ops[Form.QOPERATOR], "Conv": EAGER.ops["Conv"]}}
    )
    asked = ["Conv", "AveragePool"]
    plan = plan_of(model, target, **QOPERATOR)
    assert "op_types_to_quantize can ask for it" in reasons(plan)["AveragePool_1"]
    assert set(plan_of(model, target, **QOPERATOR, op_types_to_quantize=asked).nodes) == {
        "Conv_0", "AveragePool_1", "Conv_2",
    }  # fmt: skip


def test_float16_biases_are_int32_in_both_forms() -> None:
    """Left float, ONNX Runtime makes codes of them itself, with scales that overflow in float16."""
    half = {name: array.astype(np.float16) for name, array in WEIGHTS.arrays.items()}
    text = "g (float16[N, 4, 6, 6] x) => (float16[N, 4, 6, 6] y) {\ny = Conv (x, a_w, a_b)\n}"
    model = build(text, {name: half[name] for name in ("a_w", "a_b")}, opset=19)
    assert plan_of(model, **QOPERATOR).nodes["Conv_0"].inputs == ("x", "a_w", "a_b")
    assert plan_of(model).nodes["Conv_0"].inputs == ("x", "a_w", "a_b")
