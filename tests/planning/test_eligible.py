"""Every reason for which a node stays float before its neighbours are looked at."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.build import Weights, build
from models.convolutions import dynamic_weight
from models.gemm import dynamic_bias, gemm
from models.precision import double
from models.ranges import odd_clip
from tests.quantizers.flow import EAGER, plan_of, reasons
from vqonnx.api.static import quantize_static
from vqonnx.core.target import Form, OpSupport
from vqonnx.progress import silent
from vqonnx.targets.cpu import CPU_X86_VNNI

CONV = "g (float[N, 3, 6, 6] x) => (float[N, 4, 4, 4] y) {\nh = Conv (x, c_w, c_b)\ny = Tanh (h)\n}"


def conv() -> onnx.ModelProto:
    weights = Weights(0)
    weights.conv("c", 4, 3, 3, 3)
    return build(CONV, weights.arrays)


def already_quantized() -> onnx.ModelProto:
    text = """g (float[N, 8] x) => (float[N, 8] y) {
        q = QuantizeLinear (x, s, z)
        y = DequantizeLinear (q, s, z)
    }"""
    return build(text, {"s": np.float32(0.1), "z": np.uint8(3)})


def run_time_bias() -> onnx.ModelProto:
    weights = Weights(0)
    weights.normal("w", 4, 3, 3, 3)
    return build(
        "g (float[N, 3, 6, 6] x, float[4] b) => (float[N, 4, 4, 4] y) {\ny = Conv (x, w, b)\n}", weights.arrays
    )


def run_time_clip() -> onnx.ModelProto:
    weights = Weights(0)
    weights.conv("c", 4, 3, 3, 3)
    text = """g (float[N, 3, 6, 6] x, float low) => (float[N, 4, 4, 4] y) {
        h = Conv (x, c_w, c_b)
        y = Clip (h, low)
    }"""
    return build(text, weights.arrays)


def empty_weight() -> onnx.ModelProto:
    return build("g (float[N, 8] x) => (float[N, 0] y) {\ny = MatMul (x, w)\n}", {"w": np.zeros((8, 0), np.float32)})


def integers() -> onnx.ModelProto:
    text = """g (int64[N] x) => (float[N] y) {
        s = Add (x, x)
        y = Cast <to = 1> (s)
    }"""
    return build(text)


def old_pool() -> onnx.ModelProto:
    return build("g (float[N, 4, 6, 6] x) => (float[N, 4, 5, 5] y) {\ny = MaxPool <kernel_shape = [2, 2]> (x)\n}")


def masked() -> onnx.ModelProto:
    arrays = {"mask": np.array([0.0, -np.inf, 0.0, 0.0], np.float32)}
    return build("g (float[N, 4] x) => (float[N, 4] y) {\ny = Add (x, mask)\n}", arrays)


@pytest.mark.parametrize(
    ("make", "node", "reason"),
    [
        (masked, "Add_0", "its constant 'mask' holds NaN or infinite values"),
        (conv, "Tanh_1", "target eager has no integer kernel for Tanh"),
        (already_quantized, "QuantizeLinear_0", "already quantized"),
        (already_quantized, "DequantizeLinear_1", "already quantized"),
        (double, "MatMul_0", "QuantizeLinear takes float32 and float16, not double"),
        (dynamic_weight, "Conv_0", "its weight is computed at run time"),
        (empty_weight, "MatMul_0", "its weight has no elements"),
        (run_time_bias, "Conv_0", "its bias is computed at run time"),
        (dynamic_bias, "Gemm_2", "its bias is computed at run time"),
        (partial(gemm, (3, 5)), "Gemm_0", "its bias of shape [3, 5] is no vector of output channels"),
        (partial(gemm, (3, 1)), "Gemm_0", "its bias of shape [3, 1] is no vector of output channels"),
        (run_time_clip, "Clip_1", "its bounds are computed at run time"),
        (odd_clip, "Clip_1", "it clips to [1, 3], which no range that holds 0 clips like"),
        (partial(odd_clip, -3.0, -1.0), "Clip_1", "it clips to [-3, -1], which no range that holds 0 clips like"),
    ],
)
def test_a_node_stays_float_for_a_reason(make: partial[onnx.ModelProto], node: str, reason: str) -> None:
    assert reasons(plan_of(make()))[node] == reason


def test_an_operator_may_need_a_newer_opset_than_the_model_has() -> None:
    model = old_pool()
    ops = {**EAGER.ops, "MaxPool": replace(EAGER.ops["MaxPool"], opset=19)}
    plan = plan_of(model, replace(EAGER, ops=ops))
    assert reasons(plan)["MaxPool_0"] == "MaxPool has an integer kernel from opset 19 on, the model has 17"
    assert "opset" not in reasons(plan_of(model))["MaxPool_0"]


def test_gemm_factors_that_remain_keep_a_gemm_float() -> None:
    weights = Weights(0)
    weights.normal("w", 8, 5)
    text = """g (float[3, 8] x, float[5] c) => (float[3, 5] y) {
        y = Gemm <beta = 0.5> (x, w, c)
    }"""
    reason = reasons(plan_of(build(text, weights.arrays)))["Gemm_0"]
    assert reason == "alpha or beta is not 1 and could not be folded into a constant"


def test_a_node_without_float_edges_is_neither_planned_nor_skipped() -> None:
    plan = plan_of(integers())
    assert set(reasons(plan)) == {"Cast_1"}
    assert not plan.nodes


def test_an_operator_of_another_domain_is_named_with_it() -> None:
    weights = Weights(0)
    weights.normal("w", 8, 8)
    text = """g (float[N, 8] x) => (float[N, 8] y) {
        m = com.microsoft.Gelu (x)
        y = MatMul (m, w)
    }"""
    model = build(text, weights.arrays, domains={"com.microsoft": 1})
    assert reasons(plan_of(model))["Gelu_0"] == "target eager has no integer kernel for com.microsoft::Gelu"
    taken = plan_of(model, replace(EAGER, ops={**EAGER.ops, "com.microsoft::Gelu": OpSupport(heavy_from=1)}))
    assert set(taken.nodes) == {"Gelu_0", "MatMul_1"}


@pytest.mark.parametrize(("channels", "planned"), [(3, False), (4, True)])
def test_a_convolution_is_heavy_from_its_products_a_value_on(channels: int, planned: bool) -> None:
    weights = Weights(0)
    weights.conv("c", 8, channels, 3, 3)
    model = build(
        f"g (float[N, {channels}, 6, 6] x) => (float[N, 8, 4, 4] y) {{\ny = Conv (x, c_w, c_b)\n}}", weights.arrays
    )
    plan = plan_of(model, CPU_X86_VNNI)  # from 32 products: 3 * 9 are too few, 4 * 9 are not
    assert ("Conv_0" in plan.nodes) is planned


def test_transb_turns_the_channel_axis() -> None:
    plain, turned = (plan_of(gemm((5,), trans_b=flag)).tensors["w"].spec.granularity for flag in (False, True))
    assert (plain.axis, turned.axis) == (1, 0)  # type: ignore[union-attr]


def test_a_concat_in_float16_is_quantized_as_an_integer_operator_only(tmp_path: Path) -> None:
    """ONNX Runtime would fuse the pairs around it to a QLinearConcat that it refuses to load."""
    model = build("g (float16[N, 8] x) => (float16[N, 16] y) {\nc = Concat <axis = 1> (x, x)\ny = Identity (c)\n}")
    options = {"ForceQuantizeNoInputCheck": True}
    assert "no float16 scales" in reasons(plan_of(model, extra_options=options))["Concat_0"]
    assert "Concat_0" in plan_of(model, extra_options=options, form=Form.QOPERATOR).nodes
    feeds = [{"x": np.ones((2, 8), np.float16)}] * 2
    for form in ("QDQ", "QOperator"):
        path = tmp_path / f"{form}.onnx"
        quantize_static(model, path, feeds, form, target=EAGER, extra_options=options, progress=silent, guard=False)
