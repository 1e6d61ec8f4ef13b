"""The QDQ form against ONNX's definition of its operators and a quantization written out in numpy."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from models.build import Weights, build
from models.convolutions import conv_transpose, grouped_conv
from models.gemm import gemm
from models.matmuls import linear_bias, matmul
from models.naming import annotated, inner_output, taken_names
from models.networks import residual_cnn
from models.sharing import both_ways, one_bias
from tests.quantizers.flow import (
    EAGER,
    constants,
    maker,
    node,
    normals,
    ops,
    quantized,
    quantizer,
    run,
    run_reference,
    sqnr,
)
from vqonnx.core.params import QuantParams
from vqonnx.core.qtype import INT8, INT16, UINT8, UINT16, QType
from vqonnx.core.spec import QuantSpec
from vqonnx.emitters.qdq import clips_exactly
from vqonnx.graph.proto import to_proto
from vqonnx.kernels.affine import affine_params

Array = Any
LIMITS = {
    "uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767), "int4": (-8, 7),
    "uint4": (0, 15),
}  # fmt: skip


def rounded(x: Array, scale: Array, zero: Array) -> Array:
    """Quantized and back, from ONNX's text alone: saturate(round(x / scale) + zero), half to even."""
    low, high = LIMITS[str(zero.dtype)]
    codes = np.clip(np.rint(x / scale) + zero.astype(np.float64), low, high)
    return ((codes - zero.astype(np.float64)) * scale).astype(np.float32)


def linear_by_hand(model: onnx.ModelProto, x: Array) -> Array:
    """``linear_bias`` in numpy with the numbers of its quantized form."""
    found = constants(model)

    def real(name: str) -> Array:
        codes = found[f"{name}_quantized"].astype(np.float64)
        return (codes - found[f"{name}_zero_point"].astype(np.float64)) * found[f"{name}_scale"]

    def short(value: Array, name: str) -> Array:
        return rounded(value, found[f"{name}_scale"], found[f"{name}_zero_point"]).astype(np.float64)

    hidden = short(np.maximum(short(x, "x") @ real("a_w") + real("a_b"), 0), "r")
    return hidden @ real("b_w") + real("b_b") + x


FEEDS = normals(4, {"x": (2, 3, 8)})


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"per_channel": False},
        {"reduce_range": True},
        {"activation_qType": "QInt8"},
        {"activation_qType": "QInt8", "extra_options": {"ActivationSymmetric": True}},
        {"weight_qType": "QUInt8", "per_channel": False},
        {"activation_qType": "QUInt16", "weight_qType": "QInt16"},
        {"activation_qType": "QInt16", "weight_qType": "QInt8"},
        {"weight_qType": "QInt4"},
        {"weight_qType": "QUInt4"},
    ],
)
def test_the_form_computes_what_its_numbers_say(arguments: dict[str, Any]) -> None:
    model = quantized(linear_bias(), FEEDS, **arguments)
    expected = linear_by_hand(model, FEEDS[0]["x"])
    step = float(constants(model)["r_scale"])
    for how in (run, run_reference):
        given = how(model, FEEDS[0])["y"]
        # A sum that lies between two codes may round either way; that moves few elements, by a step of r.
        assert np.abs(given - expected).max() < 5 * step
        assert np.quantile(np.abs(given - expected), 0.8) < 1e-4


@pytest.mark.parametrize(
    ("name", "make", "shape"),
    [
        ("conv", lambda: grouped_conv(2), (2, 8, 9, 9)),
        ("transposed", lambda: conv_transpose(1), (2, 8, 5, 5)),
        ("gemm", lambda: gemm((5,), trans_b=True, alpha=0.25, beta=3.0), (3, 8)),
        ("gemm, scalar bias", lambda: gemm(()), (3, 8)),
        ("batched weight", lambda: matmul("3d"), (4, 2, 8)),
        ("both ways", both_ways, (2, 8)),
        ("one bias", one_bias, (2, 3, 6, 6)),
        ("residual", residual_cnn, (1, 3, 16, 16)),
    ],
)
def test_onnx_runtime_and_the_reference_agree(
    name: str, make: Callable[[], onnx.ModelProto], shape: tuple[int, ...]
) -> None:
    del name
    feeds = normals(4, {"x": shape})
    model = quantized(make(), feeds)
    given, reference = run(model, feeds[0])["y"], run_reference(model, feeds[0])["y"]
    assert sqnr(reference, given) > 45
    assert sqnr(run(make(), feeds[0])["y"], given) > 25
    assert "DequantizeLinear" in ops(model)


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_grouped_transposed_convolution_adds_its_bias_to_the_right_channels(groups: int, per_channel: bool) -> None:
    feeds = normals(4, {"x": (2, 8, 5, 5)})  # the reference evaluator cannot run it
    model = quantized(conv_transpose(groups), feeds, per_channel=per_channel)
    assert sqnr(run(conv_transpose(groups), feeds[0])["y"], run(model, feeds[0])["y"]) > 35


# ---- clips ----


def params(low: float, high: float, qtype: QType = UINT8, **spec: Any) -> QuantParams:
    return affine_params(low, high, QuantSpec(qtype=qtype, **spec))


BOUNDS = st.sampled_from([-np.inf, -6.0, -1.0, -0.5, 0.0])
TOPS = st.sampled_from([0.0, 0.5, 1.0, 6.0, np.inf])


@given(
    ends=st.tuples(st.floats(-8, -0.001) | st.just(0.0), st.floats(0.001, 8) | st.just(0.0)),
    exact=st.booleans(),
    low=BOUNDS,
    high=TOPS,
    qtype=st.sampled_from([UINT8, INT8, UINT16, INT16]),
    symmetric=st.booleans(),
    reduce_range=st.booleans(),
)
def test_a_clip_is_absorbed_exactly_where_quantize_linear_repeats_it(
    ends: tuple[float, float], exact: bool, low: float, high: float, qtype: QType, symmetric: bool, reduce_range: bool
) -> None:
    assume(low < high)
    begin, end = (max(low, -9.0), min(high, 9.0)) if exact else ends
    made = params(begin, end, qtype, symmetric=symmetric, reduce_range=reduce_range)
    bounds = [bound for bound in (low, high) if np.isfinite(bound)]
    x = np.concatenate([np.linspace(-20, 20, 801), bounds]).astype(np.float32)
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21]> g (float[N] x, float s, ' + f"{qtype.name} z) => ({qtype.name}[N] q)"
        "{ q = QuantizeLinear (x, s, z) }"
    )
    operator = ReferenceEvaluator(model)
    numbers = {"s": made.scale, "z": made.zero_point}
    (plain,) = operator.run(None, {"x": x, **numbers})
    (clipped,) = operator.run(None, {"x": np.clip(x, low, high), **numbers})
    assert clips_exactly(made, low, high) == bool((plain == clipped).all())


def clip_model(low: float | None, high: float | None) -> onnx.ModelProto:
    """A convolution, a clip of its output, and a convolution."""
    weights = Weights(5)
    weights.conv("a", 4, 4, 1, 1)
    weights.conv("b", 4, 4, 1, 1)
    bounds = {"low": low, "high": high}
    names = ["k", *(name if value is not None else "" for name, value in bounds.items())]
    clip = "Relu (k)" if (low, high) == (0.0, None) else f"Clip ({', '.join(names).rstrip(', ')})"
    text = f"""g (float[N, 4, 3, 3] x) => (float[N, 4, 3, 3] y) {{
        k = Conv (x, a_w, a_b)
        r = {clip}
        y = Conv (r, b_w, b_b)
    }}"""
    arrays = {name: np.float32(value) for name, value in bounds.items() if value is not None and name in clip}
    return build(text, {**weights.arrays, **arrays})


CLIP_FEEDS = normals(4, {"x": (2, 4, 3, 3)}, seed=3)


@pytest.mark.parametrize(
    ("low", "high", "options", "stays"),
    [
        (0.0, None, {}, False),
        (0.0, 6.0, {"TensorQuantOverrides": {"r": [{"rmin": 0, "rmax": 6}]}}, False),
        (0.0, 6.0, {"TensorQuantOverrides": {"r": [{"rmin": 0, "rmax": 7}]}}, True),
        (0.0, 6.0, {"TensorQuantOverrides": {"r": [{"rmin": 0, "rmax": 6, "reduce_range": True}]}}, True),
        (-1.0, 3.0, {"TensorQuantOverrides": {"r": [{"rmin": -1, "rmax": 3}]}}, False),
        (-1.0, 1.0, {"TensorQuantOverrides": {"r": [{"rmin": -1, "rmax": 1}]}}, True),  # -1 becomes 1 of 0..255
        (-1.0, 1.0, {"TensorQuantOverrides": {"r": [{"quant_type": "QInt8", "symmetric": True}]}}, True),
        (None, 1.0, {}, False),  # the samples reach it, so that the range ends there
        (None, 50.0, {}, False),  # the range ends before
        (None, 50.0, {"TensorQuantOverrides": {"r": [{"rmin": -60, "rmax": 60}]}}, True),
        (0.0, None, {"ActivationSymmetric": True}, True),
        (0.0, None, {"QDQKeepRemovableActivations": True}, True),
        (0.0, None, {"TensorQuantOverrides": {"r": [{"scale": 0.02, "zero_point": 128}]}}, True),
    ],
)
def test_a_clip_goes_only_where_the_range_does_its_work(
    low: float | None, high: float | None, options: dict[str, Any], stays: bool
) -> None:
    source = clip_model(low, high)
    made = quantizer(source, CLIP_FEEDS, extra_options=options)
    model = made.quantize_model()
    onnx.checker.check_model(model, full_check=True)
    assert bool({"Relu", "Clip"} & set(ops(model))) is stays
    # The same numbers, with the clip always there.
    made.plan = replace(made.current_plan(), keep_clips=True)
    kept = to_proto(made.result())
    wide = {"x": CLIP_FEEDS[0]["x"] * 5}  # far beyond what was seen
    np.testing.assert_allclose(run(model, wide)["y"], run(kept, wide)["y"], atol=1e-5)


@pytest.mark.parametrize(("low", "high"), [(1.0, 3.0), (-3.0, -1.0)])
def test_a_clip_off_zero_stays_and_works(low: float, high: float) -> None:
    model = quantized(clip_model(low, high), CLIP_FEEDS)
    assert "Clip" in ops(model)
    for source in (model, clip_model(low, high)):
        assert sqnr(run(clip_model(low, high), CLIP_FEEDS[1])["y"], run(source, CLIP_FEEDS[1])["y"]) > 25


@pytest.mark.parametrize("arguments", [{}, {"activation_qType": "QInt8"}])
def test_a_relu_that_was_dead_in_calibration_still_clips(arguments: dict[str, Any]) -> None:
    source = clip_model(0.0, None)
    for tensor in source.graph.initializer:
        if tensor.name == "a_b":
            array = onnx.numpy_helper.to_array(tensor) - 100
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float32), "a_b"))
    model = quantized(source, CLIP_FEEDS, **arguments)
    found = run(model, CLIP_FEEDS[0])["y"]
    step = constants(model)["b_b_scale"].max()  # of a bias under an input of scale 1
    np.testing.assert_allclose(found, run(source, CLIP_FEEDS[0])["y"], atol=step)


# ---- names ----


@pytest.mark.parametrize("make", [linear_bias, inner_output, taken_names, residual_cnn])
def test_inputs_and_outputs_keep_their_names_and_types(make: Callable[[], onnx.ModelProto]) -> None:
    source = make()
    shape = [dim.dim_value or 2 for dim in source.graph.input[0].type.tensor_type.shape.dim]
    model = quantized(source, normals(2, {"x": shape}))
    assert [value.name for value in model.graph.input] == [value.name for value in source.graph.input]
    assert [(v.name, v.type.tensor_type.elem_type) for v in model.graph.output] == [
        (v.name, v.type.tensor_type.elem_type) for v in source.graph.output
    ]


def test_a_users_own_x_scale_is_not_taken_for_ours() -> None:
    source = taken_names()
    feeds = normals(4, {"x": (4, 8)})
    model = quantized(source, feeds, extra_options={"ForceQuantizeNoInputCheck": True})
    assert sqnr(run(source, feeds[0])["y"], run(model, feeds[0])["y"]) > 30
    mul = node(model, "Mul_0")
    quantize = maker(model, maker(model, mul.input[0]).input[0])
    assert (quantize.op_type, quantize.input[0]) == ("QuantizeLinear", "x")
    assert quantize.input[1] != "x_scale"
    names = [tensor.name for tensor in model.graph.initializer] + [o for n in model.graph.node for o in n.output]
    assert len(names) == len(set(names))


def test_metadata_and_doc_strings_survive_and_the_target_is_noted() -> None:
    model = quantized(annotated(), normals(2, {"x": (1, 3, 6, 6)}))
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata == {"labels": "a\nb", "vqonnx.target": "eager"}
    assert model.doc_string == "kept"


# ---- form ----


def test_scales_are_scalars_per_tensor_and_vectors_with_an_axis_per_channel() -> None:
    model = quantized(linear_bias(), FEEDS)
    found = constants(model)
    for name in ("x", "r"):
        assert found[f"{name}_scale"].shape == found[f"{name}_zero_point"].shape == ()
    assert found["a_w_scale"].shape == found["a_w_zero_point"].shape == (8,)
    for one in model.graph.node:
        if one.op_type in ("QuantizeLinear", "DequantizeLinear"):
            axes = [attribute.i for attribute in one.attribute if attribute.name == "axis"]
            assert bool(axes) == bool(found[one.input[1]].shape)
            assert found[one.input[1]].dtype == np.float32
    biases = [name for name in found if name.endswith("_b_quantized")]
    assert {found[name].dtype for name in biases} == {np.dtype(np.int32)}
    assert not any(found[name.replace("quantized", "zero_point")].any() for name in biases)


def test_no_float_weight_is_left_behind() -> None:
    found = constants(quantized(linear_bias(), FEEDS))
    assert not {"a_w", "b_w", "a_b", "b_b"} & set(found)
    assert {name.rsplit("_", 1)[1] for name, array in found.items() if array.dtype == np.float32} == {"scale"}


def test_a_value_has_one_pair_however_many_read_it() -> None:
    weights = Weights(0)
    for name in "ab":
        weights.conv(name, 4, 4, 1, 1)
    text = """g (float[N, 4, 3, 3] x) => (float[N, 4, 3, 3] y, float[N, 4, 3, 3] z, float[N, 4, 3, 3] t) {
        y = Conv (x, a_w, a_b)
        z = Conv (x, b_w, b_b)
        t = Tanh (x)
    }"""
    model = quantized(build(text, weights.arrays), normals(2, {"x": (1, 4, 3, 3)}))
    pairs = [one for one in model.graph.node if one.op_type == "QuantizeLinear" and one.input[0] == "x"]
    assert len(pairs) == 1
    assert node(model, "Tanh_2").input[0] == "x"  # the float input is there, so no float node reads the rounded one
    assert node(model, "Conv_0").input[0] == node(model, "Conv_1").input[0]


def test_all_readers_of_an_integer_nodes_output_read_the_rounded_value() -> None:
    weights = Weights(0)
    for name in "ab":
        weights.conv(name, 4, 4, 1, 1)
    text = """g (float[N, 4, 3, 3] x) => (float[N, 4, 3, 3] h, float[N, 4, 3, 3] y, float[N, 4, 3, 3] t) {
        h = Conv (x, a_w, a_b)
        y = Conv (h, b_w, b_b)
        t = Tanh (h)
    }"""
    model = quantized(build(text, weights.arrays), normals(2, {"x": (1, 4, 3, 3)}))
    assert maker(model, "h").op_type == "DequantizeLinear"
    assert node(model, "Tanh_2").input[0] == node(model, "Conv_1").input[0] == "h"


def test_a_conversion_is_a_second_pair_behind_the_first() -> None:
    overrides = {"x": [{"quant_type": "QUInt8", "convert": {"quant_type": "QUInt16", "recv_nodes": ["Conv_1"]}}]}
    weights = Weights(0)
    for name in "ab":
        weights.conv(name, 4, 4, 1, 1)
    text = """g (float[N, 4, 3, 3] x) => (float[N, 4, 3, 3] y, float[N, 4, 3, 3] z) {
        y = Conv (x, a_w, a_b)
        z = Conv (x, b_w, b_b)
    }"""
    model = quantized(
        build(text, weights.arrays), normals(2, {"x": (1, 4, 3, 3)}), extra_options={"TensorQuantOverrides": overrides}
    )
    first, second = (node(model, name).input[0] for name in ("Conv_0", "Conv_1"))
    behind = maker(model, maker(model, second).input[0])
    assert behind.input[0] == first
    found = constants(model)
    assert (found["x_zero_point"].dtype, found["x_zero_point_convert"].dtype) == (np.uint8, np.uint16)


@pytest.mark.parametrize(
    ("arguments", "dtype", "opset"),
    [
        ({"activation_qType": "QInt16"}, "int16", 21),
        ({"activation_qType": "QUInt16"}, "uint16", 21),
        ({"weight_qType": "QInt4"}, "int4", 21),
        ({"weight_qType": "QUInt4"}, "uint4", 21),
        ({}, "int8", 17),
        ({"activation_qType": "QInt16", "extra_options": {"UseQDQContribOps": True}}, "int16", 17),
    ],
)
def test_a_type_brings_the_opset_that_knows_it(arguments: dict[str, Any], dtype: str, opset: int) -> None:
    model = quantized(linear_bias(), FEEDS, **arguments)
    domains = {entry.domain: entry.version for entry in model.opset_import}
    contrib = "extra_options" in arguments
    assert domains == ({"": opset, "com.microsoft": 1} if contrib else {"": opset})
    assert dtype in {str(array.dtype) for array in constants(model).values()}
    kinds = {one.domain for one in model.graph.node if one.op_type in ("QuantizeLinear", "DequantizeLinear")}
    assert kinds == {"com.microsoft" if contrib else ""}
    given = run(model, FEEDS[0])["y"]
    assert sqnr(run(linear_bias(), FEEDS[0])["y"], given) > 15


def test_what_is_not_planned_is_left_as_it_was() -> None:
    source = linear_bias()
    made = quantizer(source, FEEDS, nodes_to_exclude=["*"])
    assert not made.current_plan().nodes
    model = made.quantize_model()
    assert ops(model) == ops(source)
    np.testing.assert_array_equal(run(model, FEEDS[0])["y"], run(source, FEEDS[0])["y"])


def test_emitting_leaves_the_prepared_model_as_it_was() -> None:
    made = quantizer(linear_bias(), FEEDS, target=EAGER)
    before = to_proto(made.model).SerializeToString()
    made.quantize_model()
    assert to_proto(made.model).SerializeToString() == before
