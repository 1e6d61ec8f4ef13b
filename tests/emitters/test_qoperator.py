"""The QOperator form: what is written, that it runs, and that it gives what the QDQ form gives."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from models.build import Weights, build
from models.control import if_captures
from models.matmuls import linear_bias
from models.naming import annotated, inner_output, taken_names
from models.networks import residual_cnn
from models.precision import half
from models.registry import Case
from models.registry import load as cases
from tests.quantizers import flow
from tests.quantizers.flow import EAGER, Feed, constants, maker, node, normals, ops, quantizer, run, sqnr
from tests.sampling import one_in
from vqonnx import ONNXQuantizer
from vqonnx.core.qtype import INT8, UINT8, QType
from vqonnx.core.spec import QuantSpec
from vqonnx.core.target import Form
from vqonnx.errors import VqonnxError
from vqonnx.graph.io import save
from vqonnx.graph.proto import to_proto
from vqonnx.kernels.affine import affine_params, quantize
from vqonnx.report.figures import Outcome
from vqonnx.stages.integer_kernels import integer_kernels
from vqonnx.targets.directml import DIRECTML

Model = onnx.ModelProto
# The QDQ form with the same operators, so that the two plans are alike.
SAME = replace(EAGER, ops={name: replace(one, types={}) for name, one in EAGER.other_ops[Form.QOPERATOR].items()})


def quantized(model: Model, feeds: Sequence[Feed], **arguments: Any) -> Model:
    """The QOperator form, checked."""
    made = quantizer(model, feeds, kind=ONNXQuantizer, **arguments).quantize_model()
    onnx.checker.check_model(made, full_check=True)
    return made


def conversions(model: Model) -> Counter[tuple[str, str]]:
    """(operator, source) of each QuantizeLinear and DequantizeLinear."""
    kinds = ("QuantizeLinear", "DequantizeLinear")
    return Counter((one.op_type, one.input[0]) for one in model.graph.node if one.op_type in kinds)


# ---- all odd models ----

RUNNABLE = [case for case in cases().values() if case.runnable]


@pytest.mark.parametrize("case", one_in(2, RUNNABLE), ids=lambda case: case.name)
def test_any_model_gives_what_its_qdq_form_gives(case: Case) -> None:
    model, feeds = case.build(), list(case.feeds(4))
    works = [quantizer(model, feeds, kind=kind, target=SAME) for kind in (ONNXQuantizer, flow.QDQQuantizer)]
    assert works[0].current_plan().nodes.keys() == works[1].current_plan().nodes.keys()
    try:
        made, qdq = (work.quantize_model() for work in works)
    except VqonnxError:
        pytest.fail("a model that can be quantized in one form can be in the other")
    # The QDQ form computes in float16, which costs ONNX Runtime 1.24 another 8 dB here; integers cost nothing.
    steps = 8 if any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer) else 1.1
    onnx.checker.check_model(made, full_check=True)
    assert all(found == 1 for found in conversions(made).values())
    for feed in feeds:
        for optimize in (False, True):
            wanted, given = run(qdq, feed, optimize=optimize), run(made, feed, optimize=optimize)
            for name, one in wanted.items():
                other = given[name]
                assert (other.shape, other.dtype) == (one.shape, one.dtype)
                size = np.abs(one.astype(np.float64)).max(initial=1e-9)
                assert np.abs(one.astype(np.float64) - other).max(initial=0) <= steps * size / 255


@pytest.mark.parametrize("case", one_in(2, RUNNABLE), ids=lambda case: case.name)
def test_every_planned_node_really_is_an_integer_kernel(case: Case, tmp_path: Path) -> None:
    made = quantizer(case.build(), list(case.feeds(4)), kind=ONNXQuantizer)
    save(made.result(), tmp_path / "m.onnx")
    found = integer_kernels(tmp_path / "m.onnx", made.current_plan(), providers=("CPUExecutionProvider",))
    assert {kernel.outcome for kernel in found} <= {Outcome.INTEGER, Outcome.MERGED}
    assert {kernel.op_type for kernel in found if kernel.outcome is Outcome.MERGED} <= {"Add", "Relu", "Clip"}


@pytest.mark.parametrize("name", ["networks/residual_cnn", "networks/transformer"])
def test_the_form_of_another_device_computes_the_same(name: str) -> None:
    """DirectML's plan, whose operators this processor has too."""
    case = cases()[name]
    source, feeds = case.build(), list(case.feeds(4))
    model = quantized(source, feeds, target=DIRECTML)
    output = source.graph.output[0].name
    assert sqnr(run(source, feeds[0])[output], run(model, feeds[0])[output]) > 18
    assert {one.op_type for one in model.graph.node if one.domain} <= {
        "MatMulIntegerToFloat", "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearGlobalAveragePool",
        "QLinearSigmoid",
    }  # fmt: skip


@pytest.mark.parametrize("make", [linear_bias, inner_output, taken_names, residual_cnn, annotated])
def test_inputs_and_outputs_keep_their_names_and_types(make: Callable[[], Model]) -> None:
    source = make()
    shape = [dim.dim_value or 2 for dim in source.graph.input[0].type.tensor_type.shape.dim]
    model = quantized(source, normals(2, {"x": shape}))
    for before, after in ((source.graph.input, model.graph.input), (source.graph.output, model.graph.output)):
        assert [(v.name, v.type.tensor_type.elem_type) for v in after] == [
            (v.name, v.type.tensor_type.elem_type) for v in before
        ]
    names = [tensor.name for tensor in model.graph.initializer] + [o for n in model.graph.node for o in n.output]
    assert len(names) == len(set(names))


# ---- where float and integers meet ----

CONVS = Weights(0)
for _name in "abc":
    CONVS.conv(_name, 4, 4, 1, 1)
SHAPE = (1, 4, 3, 3)
FEEDS = normals(4, {"x": SHAPE})


def convs(text: str, outputs: str = "y", feeds: Sequence[Feed] = FEEDS, **arguments: Any) -> Model:
    """The QOperator form of a graph over 4 channels."""
    values = ", ".join(f"float[N, 4, 3, 3] {name}" for name in outputs.split())
    return quantized(build(f"g (float[N, 4, 3, 3] x) => ({values}) {{\n{text}\n}}", CONVS.arrays), feeds, **arguments)


def test_integer_operators_hand_codes_to_each_other() -> None:
    model = convs(
        "h = Conv (x, a_w, a_b)\nr = Relu (h)\nk = Conv (r, b_w, b_b)\ns = Add (k, r)\ny = Conv (s, c_w, c_b)"
    )
    inside = ["QLinearConv", "QLinearConv", "QLinearAdd", "QLinearConv"]
    assert ops(model) == ["QuantizeLinear", *inside, "DequantizeLinear"]
    assert node(model, "Conv_2").input[0] == node(model, "Conv_0").output[0]
    assert {entry.domain for entry in model.opset_import} == {"", "com.microsoft"}


def test_a_float_value_is_quantized_once_and_stays_float_for_the_others() -> None:
    model = convs("y = Conv (x, a_w, a_b)\nz = Conv (x, b_w, b_b)\nt = Tanh (x)", "y z t")
    assert conversions(model)["QuantizeLinear", "x"] == 1
    assert node(model, "Tanh_2").input[0] == "x"
    assert (
        node(model, "Conv_0").input[0]
        == node(model, "Conv_1").input[0]
        == maker(model, "x_QuantizeLinear_Output").output[0]
    )


def test_codes_are_dequantized_once_for_all_float_readers() -> None:
    model = convs("h = Conv (x, a_w, a_b)\ny = Conv (h, b_w, b_b)\nt = Tanh (h)\nu = Exp (h)", "h y t u")
    assert maker(model, "h").op_type == "DequantizeLinear"
    assert node(model, "Tanh_2").input[0] == node(model, "Exp_3").input[0] == "h"
    assert node(model, "Conv_1").input[0] == maker(model, "h").input[0]


def test_codes_that_only_integer_operators_read_are_never_dequantized() -> None:
    model = convs("h = Conv (x, a_w, a_b)\ny = Conv (h, b_w, b_b)")
    assert [source for kind, source in conversions(model) if kind == "DequantizeLinear"] == [
        node(model, "Conv_1").output[0]
    ]


@pytest.mark.parametrize(("bodies", "captures"), [(False, "DequantizeLinear"), (True, "QLinearMatMul")])
def test_a_float_body_reads_dequantized_values_and_an_integer_one_codes(bodies: bool, captures: str) -> None:
    feeds = [{**feed, "flag": np.asarray(n % 2 == 0)} for n, feed in enumerate(normals(8, {"x": (2, 8)}))]
    model = quantized(if_captures(), feeds, extra_options={"EnableSubgraph": bodies})
    branch = next(one for one in model.graph.node if one.op_type == "If").attribute[0].g
    captured = {name for one in branch.node for name in one.input}
    makers = {one.op_type for one in model.graph.node if set(one.output) & captured}
    assert makers == {captures}
    integer = {one.op_type for one in branch.node} & {"MatMulIntegerToFloat", "QLinearMatMul"}
    assert bool(integer) is bodies
    for flag in (True, False):
        feed = {**feeds[0], "flag": np.asarray(flag)}
        assert sqnr(run(if_captures(), feed)["y"], run(model, feed)["y"]) > 25


def test_a_conversion_dequantizes_and_quantizes_again() -> None:
    convert = {"quant_type": "QUInt8", "rmin": -1, "rmax": 1, "recv_nodes": ["Conv_1"]}
    model = convs(
        "y = Conv (x, a_w, a_b)\nz = Conv (x, b_w, b_b)",
        "y z",
        extra_options={"TensorQuantOverrides": {"x": [{"quant_type": "QUInt8", "convert": convert}]}},
    )
    plain, converted = node(model, "Conv_0").input, node(model, "Conv_1").input
    behind = maker(model, maker(model, converted[0]).input[0])
    assert (behind.op_type, behind.input[0]) == ("DequantizeLinear", plain[0])
    assert constants(model)[converted[1]] == pytest.approx(2 / 255)


def test_moved_codes_with_other_numbers_are_quantized_again() -> None:
    overrides = {"f": [{"symmetric": True}]}
    weights = Weights(1)
    weights.conv("a", 4, 4, 1, 1)
    weights.linear("b", 36, 5)
    text = """g (float[N, 4, 3, 3] x) => (float[N, 5] y) {
        h = Conv (x, a_w, a_b)
        f = Flatten (h)
        y = Gemm (f, b_w, b_b)
    }"""
    source = build(text, weights.arrays)
    model = quantized(source, FEEDS, extra_options={"TensorQuantOverrides": overrides})
    assert ops(model)[2:] == ["Flatten", "DequantizeLinear", "QuantizeLinear", "QGemm"]
    assert constants(model)["f_zero_point"] == 128 != constants(model)["h_zero_point"]
    assert sqnr(run(source, FEEDS[0])["y"], run(model, FEEDS[0])["y"]) > 30


def test_a_second_output_stays_what_it_is() -> None:
    text = """g (float[N, 4, 3, 3] x) => (float[N, 4, 2, 2] y, int64[N, 4, 2, 2] i) {
        h = Conv (x, a_w, a_b)
        p, i = MaxPool <kernel_shape = [2, 2]> (h)
        y = Conv (p, b_w, b_b)
    }"""
    source = build(text, CONVS.arrays)
    model = quantized(source, FEEDS)
    assert ops(model) == ["QuantizeLinear", "QLinearConv", "MaxPool", "QLinearConv", "DequantizeLinear"]
    given = run(model, FEEDS[0])
    assert given["i"].dtype == np.int64
    assert (given["i"] == run(source, FEEDS[0])["i"]).mean() > 0.9
    assert sqnr(run(source, FEEDS[0])["y"], given["y"]) > 30


def test_every_part_of_a_split_has_codes_of_its_own() -> None:
    text = """s, t = Split <axis = 1> (h)
        a = Concat <axis = 1> (t, s)
        y = Conv (a, b_w, b_b)"""
    model = convs(f"h = Conv (x, a_w, a_b)\n{text}")
    assert ops(model) == ["QuantizeLinear", "QLinearConv", "Split", "QLinearConcat", "QLinearConv", "DequantizeLinear"]
    split = maker(model, node(model, "Split_1").output[0])
    assert set(node(model, "Concat_2").input) >= set(split.output)


def test_what_is_compared_needs_no_conversion_back() -> None:
    text = """g (float[N, 4, 3, 3] x) => (int64[N, 1, 3, 3] y) {
        h = Conv (x, a_w, a_b)
        y = ArgMax <axis = 1> (h)
    }"""
    source = build(text, CONVS.arrays)
    model = quantized(source, FEEDS)
    assert ops(model) == ["QuantizeLinear", "QLinearConv", "ArgMax"]
    assert (run(model, FEEDS[0])["y"] == run(source, FEEDS[0])["y"]).mean() > 0.8


# ---- float results of products ----


def test_a_linear_layer_is_one_operator_with_its_bias_in_float() -> None:
    feeds = normals(4, {"x": (2, 3, 8)})
    model = quantized(linear_bias(), feeds)
    assert Counter(ops(model)) == {"QuantizeLinear": 2, "MatMulIntegerToFloat": 2, "Add": 1}
    first = node(model, "MatMul_0")
    bias = constants(model)[first.input[6]]
    assert bias.dtype == np.float32
    np.testing.assert_allclose(bias, constants(linear_bias())["a_b"], atol=1e-3)
    assert maker(model, node(model, "MatMul_3").input[0]).input[0] == first.output[0]  # the Relu is in the codes


def test_a_linear_layer_may_keep_its_bias_as_it_is() -> None:
    feeds = normals(4, {"x": (2, 3, 8)})
    model = quantized(linear_bias(), feeds, extra_options={"QuantizeBias": False})
    assert node(model, "MatMul_0").input[6] == "a_b"
    assert sqnr(run(linear_bias(), feeds[0])["y"], run(model, feeds[0])["y"]) > 30


def test_float_readers_of_a_product_read_it_unrounded() -> None:
    weights = Weights(3)
    for name in "ab":
        weights.linear(name, 8, 8)
    text = """g (float[N, 8] x) => (float[N, 8] y, float[N, 8] t) {
        h = Gemm (x, a_w, a_b)
        m = MatMul (x, a_w)
        n = Add (m, b_b)
        y = MatMul (n, b_w)
        t = Tanh (n)
    }"""
    feeds = normals(4, {"x": (3, 8)})
    model = quantized(build(text.replace("h = Gemm (x, a_w, a_b)", ""), weights.arrays), feeds)
    product = node(model, "MatMul_0").output[0]
    assert node(model, "Tanh_3").input[0] == product
    assert maker(model, node(model, "MatMul_2").input[0]).input[0] == product


def test_a_gemm_gives_codes_or_float() -> None:
    weights = Weights(3)
    for name in "ab":
        weights.linear(name, 8, 8)
    text = "g (float[N, 8] x) => (float[N, 8] y) {\nh = Gemm (x, a_w, a_b)\ny = Gemm (h, b_w, b_b)\n}"
    source, feeds = build(text, weights.arrays), normals(4, {"x": (3, 8)})
    model = quantized(source, feeds)
    assert ops(model) == ["QuantizeLinear", "QGemm", "QGemm"]
    assert [len(node(model, name).input) for name in ("Gemm_0", "Gemm_1")] == [9, 7]
    assert sqnr(run(source, feeds[0])["y"], run(model, feeds[0])["y"]) > 30


def test_float16_models_have_float32_scales_inside_and_float16_ends() -> None:
    feeds = [{"x": feed["x"].astype(np.float16)} for feed in normals(4, {"x": (2, 3, 8, 8)})]
    model = quantized(half(), feeds)
    found = constants(model)
    for one in model.graph.node:
        if one.op_type == "QLinearConv":
            assert {found[one.input[i]].dtype for i in (1, 4, 6)} == {np.dtype(np.float32)}
            assert found[one.input[8]].dtype == np.int32  # the QDQ form leaves this bias float
    given, wanted = run(model, feeds[0])["y"], run(half(), feeds[0])["y"]
    assert given.dtype == np.float16
    assert sqnr(wanted, given) > 25


def test_a_float16_product_is_cast_for_float_readers() -> None:
    weights = {"w": np.random.default_rng(0).normal(size=(8, 5)).astype(np.float16)}
    text = "g (float16[N, 8] x) => (float16[N, 5] y) {\nh = MatMul (x, w)\ny = Tanh (h)\n}"
    source = build(text, weights, opset=19)
    feeds = [{"x": feed["x"].astype(np.float16)} for feed in normals(4, {"x": (3, 8)})]
    model = quantized(source, feeds)
    assert ops(model) == ["QuantizeLinear", "MatMulIntegerToFloat", "Cast", "Tanh"]
    assert sqnr(run(source, feeds[0])["y"], run(model, feeds[0])["y"]) > 30


# ---- clips ----


@pytest.mark.parametrize(
    ("clip", "options", "stays"),
    [
        ("Relu (h)", {}, False),
        ("Relu (h)", {"QDQKeepRemovableActivations": True}, True),
        ("Relu (h)", {"ActivationSymmetric": True}, True),
        ("Clip (h, low, high)", {"TensorQuantOverrides": {"r": [{"rmin": -1, "rmax": 3}]}}, False),
        ("Clip (h, low, high)", {"TensorQuantOverrides": {"r": [{"rmin": -2, "rmax": 4}]}}, True),
        ("Clip (h, low)", {"TensorQuantOverrides": {"r": [{"rmin": -2, "rmax": 4}]}}, True),
        ("Clip (h, , high)", {"TensorQuantOverrides": {"r": [{"rmin": -4, "rmax": 4}]}}, True),
    ],
)
def test_a_clip_goes_where_the_range_does_its_work_and_clips_codes_elsewhere(
    clip: str, options: dict[str, Any], stays: bool
) -> None:
    arrays = {**CONVS.arrays, "low": np.float32(-1), "high": np.float32(3)}
    text = f"h = Conv (x, a_w, a_b)\nr = {clip}\ny = Conv (r, b_w, b_b)"
    source = build(f"g (float[N, 4, 3, 3] x) => (float[N, 4, 3, 3] y) {{\n{text}\n}}", arrays)
    model = quantized(source, FEEDS, extra_options=options)
    assert ops(model) == [
        "QuantizeLinear", "QLinearConv", *["Clip"] * stays, "QLinearConv", "DequantizeLinear",
    ]  # fmt: skip
    qdq = quantizer(source, FEEDS, target=SAME, extra_options=options).quantize_model()
    wide = {"x": 5 * FEEDS[0]["x"]}  # far beyond what was seen
    step = float(constants(model)["y_scale"])
    assert np.abs(run(model, wide)["y"] - run(qdq, wide)["y"]).max() < 1.01 * step


@given(
    ends=st.tuples(st.floats(-8, 0), st.floats(0.01, 8)),
    bounds=st.tuples(st.sampled_from([-np.inf, -6.0, -1.0, 0.0]), st.sampled_from([0.0, 0.3, 6.0, np.inf])),
    qtype=st.sampled_from([UINT8, INT8]),
    symmetric=st.booleans(),
)
def test_clipping_codes_is_clipping_numbers(
    ends: tuple[float, float], bounds: tuple[float, float], qtype: QType, symmetric: bool
) -> None:
    """The law behind it: rounding keeps the order, so that it and clipping can change places."""
    assume(bounds[0] < bounds[1])
    params = affine_params(*ends, QuantSpec(qtype=qtype, symmetric=symmetric))
    whole = replace(params, spec=replace(params.spec, symmetric=False))
    x = np.linspace(-12, 12, 997, dtype=np.float32)
    low, high = quantize(np.asarray(bounds, np.float32), whole)
    np.testing.assert_array_equal(quantize(np.clip(x, *bounds), whole), np.clip(quantize(x, whole), low, high))


# ---- the form ----


def test_scales_of_channels_are_vectors_and_biases_int32() -> None:
    found = {one.name: one for one in convs("y = Conv (x, a_w, a_b)").graph.node}
    model = convs("y = Conv (x, a_w, a_b)")
    stored, one = constants(model), found["Conv_0"]
    assert [stored[name].shape for name in one.input[1:]] == [(), (), (4, 4, 1, 1), (4,), (4,), (), (), (4,)]
    assert stored[one.input[8]].dtype == np.int32
    assert {name.rsplit("_", 1)[1] for name, array in stored.items() if array.dtype == np.float32} == {"scale"}


@pytest.mark.parametrize(
    ("activation", "arguments"),
    [
        ("QUInt8", {}),
        ("QUInt8", {"per_channel": False}),
        ("QUInt8", {"reduce_range": True}),
        ("QUInt8", {"weight_qType": "QUInt8", "per_channel": False}),
        ("QUInt8", {"weight_qType": "QUInt8", "extra_options": {"WeightSymmetric": True}}),
        ("QInt8", {}),
        ("QInt8", {"extra_options": {"ActivationSymmetric": True}}),
    ],
)
def test_options_of_numbers_reach_the_operators(activation: str, arguments: dict[str, Any]) -> None:
    source, feeds = residual_cnn(), normals(4, {"x": (1, 3, 16, 16)})
    model = quantized(source, feeds, activation_qType=activation, **arguments)
    dtype = np.uint8 if activation == "QUInt8" else np.int8
    assert {constants(model)[one.input[2]].dtype for one in model.graph.node if one.op_type == "QLinearConv"} == {
        np.dtype(dtype)
    }
    assert sqnr(run(source, feeds[0])["y"], run(model, feeds[0])["y"]) > 18


def test_what_is_not_planned_is_left_as_it_was() -> None:
    source, feeds = linear_bias(), normals(2, {"x": (2, 3, 8)})
    model = quantized(source, feeds, nodes_to_exclude=["*"])
    assert ops(model) == ops(source)
    assert [entry.domain for entry in model.opset_import] == [""]
    np.testing.assert_array_equal(run(model, feeds[0])["y"], run(source, feeds[0])["y"])


def test_a_part_of_a_plan_can_be_written() -> None:
    made = quantizer(residual_cnn(), normals(2, {"x": (1, 3, 16, 16)}), kind=ONNXQuantizer)
    plan = made.current_plan()
    whole = run(made.model, {"x": np.ones((1, 3, 16, 16), np.float32)})["y"]
    for name, planned in plan.nodes.items():
        if planned.op_type == "Add":
            made.plan, made.solutions = replace(plan, nodes={name: planned}), None
            alone = to_proto(made.result())
            assert Counter(ops(alone))["QLinearAdd"] == 1
            assert sqnr(whole, run(alone, {"x": np.ones((1, 3, 16, 16), np.float32)})["y"]) > 20


def test_emitting_leaves_the_prepared_model_as_it_was_and_notes_the_target() -> None:
    made = quantizer(linear_bias(), normals(2, {"x": (2, 3, 8)}), kind=ONNXQuantizer)
    before = to_proto(made.model).SerializeToString()
    model = made.quantize_model()
    assert to_proto(made.model).SerializeToString() == before
    assert {entry.key: entry.value for entry in model.metadata_props} == {"vqonnx.target": "eager"}
