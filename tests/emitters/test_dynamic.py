"""The dynamic form computes what its codes mean: against ORT, ONNX's reference and float64."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from models.build import build
from tests.emitters import dynamic_models as made
from vqonnx.api.dynamic import quantize_dynamic
from vqonnx.progress import silent
from vqonnx.report.model import Report
from vqonnx.runtime.session import open_session

ALL = ("Attention", "Conv", "EmbedLayerNormalization", "GRU", "Gather", "Gemm", "LSTM", "MatMul", "RNN")


def quantized(model: onnx.ModelProto, path: Path, **options: Any) -> tuple[onnx.ModelProto, Report]:
    report = quantize_dynamic(model, path / "q.onnx", progress=silent, **options)
    result = onnx.load(path / "q.onnx")
    onnx.checker.check_model(result)
    return result, report


def run(model: onnx.ModelProto, feed: Mapping[str, Any]) -> list[Any]:
    return list(open_session(ir.from_proto(model)).run(None, dict(feed)))


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def decibels(reference: Any, actual: Any) -> float:
    error = np.sum((np.asarray(reference, np.float64) - actual) ** 2)
    return float(10 * np.log10(np.sum(np.asarray(reference, np.float64) ** 2) / max(error, 1e-300)))


def initializers(model: onnx.ModelProto) -> dict[str, Any]:
    return {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}


def by_hand(x: Any, codes: Any, scale: Any, zero: Any, bias: Any) -> Any:
    """DynamicQuantizeLinear (ONNX 11) and the product of codes, in float64."""
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    step = np.float32(high - low) / np.float32(255)
    offset = np.clip(np.rint(np.float32(-low) / step), 0, 255)
    steps = np.clip(np.rint(x / step) + offset, 0, 255) - offset
    return (steps.astype(np.float64) @ (codes.astype(np.float64) - zero)) * (float(step) * scale) + bias


@pytest.mark.parametrize("options", [{}, {"per_channel": False}, {"weight_type": "QUInt8"}, {"reduce_range": True}])
def test_a_product_is_that_of_its_codes(tmp_path, options, rng):
    model = made.product()
    result, report = quantized(model, tmp_path, **options)
    assert operators(result) == ["DynamicQuantizeLinear", "MatMulInteger", "Cast", "Mul", "Mul", "Add"]
    assert report.quantized == {"MatMul": 1}
    x = rng.standard_normal((7, 24)).astype(np.float32)
    known = initializers(result)
    zero = known.get("w_zero_point", np.int8(0)).astype(np.float64)
    wanted = by_hand(x, known["w_quantized"], known["w_scale"], zero, known["b"])
    np.testing.assert_allclose(run(result, {"x": x})[0], wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(ReferenceEvaluator(result).run(None, {"x": x})[0], wanted, rtol=1e-5, atol=1e-5)
    assert decibels(run(model, {"x": x})[0], wanted) > 30


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 9),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1.0, 0.5, -2.0]),
    st.sampled_from([1.0, 0.25, 0.0]),
    st.sampled_from([(), (1,), ("n",), (1, "n"), ("m", 1), ("m", "n")]),
)
def test_every_gemm_is_that_of_its_codes(tmp_path_factory, m, k, n, trans_a, trans_b, alpha, beta, bias):
    shape = tuple({"m": m, "n": n}.get(size, size) for size in bias)
    rows = [k, m] if trans_a else [m, k]
    given_weights = made.weights(k * n, w=(n, k) if trans_b else (k, n), c=shape)
    attributes = f"alpha = {alpha}, beta = {beta}, transA = {int(trans_a)}, transB = {int(trans_b)}"
    text = f"g (float{rows} x) => (float[{m}, {n}] y) {{ y = Gemm <{attributes}> (x, w, c) }}"
    model = build(text, given_weights)
    result, _ = quantized(model, tmp_path_factory.mktemp("gemm"))
    known = initializers(result)
    x = np.random.default_rng(m).standard_normal(rows).astype(np.float32)
    wanted = by_hand(x.T if trans_a else x, known["w_quantized"], known["w_scale"], 0, beta * given_weights["c"])
    np.testing.assert_allclose(run(result, {"x": x})[0], wanted, rtol=1e-4, atol=1e-5)
    codes = known["w_quantized"] * known["w_scale"].astype(np.float64)
    real = alpha * (given_weights["w"].T if trans_b else given_weights["w"])
    assert (np.abs(codes - real) <= known["w_scale"] * 0.5001).all()


def test_readers_of_one_activation_share_its_codes(tmp_path, rng):
    text = """g (float[m, 8] x) => (float[m, 4] a, float[m, 4] b, float[m, 8] c) {
        a = MatMul(x, u) b = MatMul(x, v) c = Relu(x)
    }"""
    model = build(text, made.weights(u=(8, 4), v=(8, 4)))
    result, _ = quantized(model, tmp_path)
    assert operators(result).count("DynamicQuantizeLinear") == 1
    feed = {"x": rng.standard_normal((5, 8)).astype(np.float32)}
    for wanted, actual in zip(run(model, feed), run(result, feed), strict=True):
        assert decibels(wanted, actual) > 30


@pytest.mark.parametrize("readers", [1, 3])
def test_onnx_runtime_fuses_the_product(tmp_path, readers):
    names = [f"y{index}" for index in range(readers)]
    outputs = ", ".join(f"float[m, 16] {name}" for name in names)
    body = " ".join(f"p{name} = MatMul(x, w{name}) {name} = Add(p{name}, b{name})" for name in names)
    shapes = {f"w{name}": (32, 16) for name in names} | {f"b{name}": (16,) for name in names}
    model = build(f"g (float[m, 32] x) => ({outputs}) {{ {body} }}", made.weights(**shapes))
    result, _ = quantized(model, tmp_path)
    open_session(ir.from_proto(result), optimized_path=tmp_path / "o.onnx")
    fused = operators(onnx.load(tmp_path / "o.onnx"))
    shared = ["DynamicQuantizeLinear", *["MatMulIntegerToFloat"] * readers]
    assert fused == (["DynamicQuantizeMatMul"] if readers == 1 else shared)


def test_a_table_and_the_product_with_it_share_one_constant_that_is_folded(tmp_path):
    model = made.tied()
    result, report = quantized(model, tmp_path)
    assert report.quantized == {"Gather": 1, "Gemm": 1}
    stored = [one for one in initializers(result).values() if one.dtype == np.int8 and one.size > 1]
    assert [one.shape for one in stored] == [(20, 8)]
    open_session(ir.from_proto(result), optimized_path=tmp_path / "o.onnx")
    fused = operators(onnx.load(tmp_path / "o.onnx"))
    assert "Transpose" not in fused
    assert "DynamicQuantizeMatMul" in fused
    feed = {"i": np.array([0, 19, -1, 7])}
    for wanted, actual in zip(run(model, feed), run(result, feed), strict=True):
        assert decibels(wanted, actual) > 30


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("weight_type", ["QInt8", "QUInt8"])
def test_a_table_is_looked_up_within_half_a_step(tmp_path, per_channel, weight_type):
    table = made.weights(t=(20, 8))["t"]
    model = build("g (int64[s, r] i) => (float[s, r, 8] y) { y = Gather(t, i) }", {"t": table}, opset=19)
    result, _ = quantized(model, tmp_path, per_channel=per_channel, weight_type=weight_type)
    feed = {"i": np.array([[0, 5], [-1, 19]])}
    step = np.abs(table).max(1 if per_channel else None, keepdims=True) / 127
    wanted, (actual,) = table[feed["i"]], run(result, feed)
    assert (np.abs(wanted - actual) <= np.broadcast_to(step, table.shape)[feed["i"]] * 0.501).all()
    np.testing.assert_allclose(ReferenceEvaluator(result).run(None, feed)[0], actual, rtol=1e-6)


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("bias", ["constant", "input", "absent"])
def test_a_convolution_is_integer_where_it_is_asked_for(tmp_path, group, bias, rng):
    model = made.convolution(group, bias)
    feed = {"x": rng.standard_normal((2, 4, 9, 9)).astype(np.float32)}
    if bias == "input":
        feed["b"] = rng.standard_normal(8).astype(np.float32)
    result, _ = quantized(model, tmp_path, op_types_to_quantize=["Conv"])
    assert "ConvInteger" in operators(result)
    (actual,) = run(result, feed)
    assert decibels(run(model, feed)[0], actual) > 30
    assert initializers(result)["w_quantized"].dtype == np.uint8  # of int8 the kernel is five times slower
    _, report = quantized(model, tmp_path)
    assert not report.quantized
    assert "ConvInteger is slower" in report.skips[0].reason


@pytest.mark.parametrize("weight_type", ["QInt8", "QUInt8"])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("op", ["LSTM", "GRU", "RNN"])
def test_recurrent_networks(tmp_path, op, directions, per_channel, weight_type, rng):
    model = made.recurrent(op, directions=directions)
    result, report = quantized(model, tmp_path, per_channel=per_channel, weight_type=weight_type)
    assert report.quantized == {op: 1}
    assert ("DynamicQuantizeLSTM" in operators(result)) == (op == "LSTM")
    assert sum(one.dtype.itemsize == 1 and one.ndim > 1 for one in initializers(result).values()) >= 2
    names = {one.name for one in model.graph.initializer} & set(initializers(result))
    assert names == {"b"}
    feed = {"x": rng.standard_normal((4, 3, 6)).astype(np.float32)}
    for wanted, actual in zip(run(model, feed), run(result, feed), strict=True):
        assert decibels(wanted, actual) > 25


@pytest.mark.parametrize("options", [{"peepholes": True}, {"lengths": True}, {"peepholes": True, "lengths": True}])
def test_an_lstm_keeps_its_optional_inputs(tmp_path, options, rng):
    model = made.recurrent("LSTM", **options)
    result, _ = quantized(model, tmp_path)
    feed = {"x": rng.standard_normal((4, 3, 6)).astype(np.float32)}
    if options.get("lengths"):
        feed["l"] = np.array([4, 2, 1], np.int32)
    for wanted, actual in zip(run(model, feed), run(result, feed), strict=True):
        assert decibels(wanted, actual) > 25


@pytest.mark.parametrize("options", [{}, {"mask": True}])
def test_attention_becomes_qattention(tmp_path, options, rng):
    model = made.attention(**options)
    result, report = quantized(model, tmp_path)
    assert operators(result) == ["DynamicQuantizeLinear", "QAttention"]
    assert report.quantized == {"Attention": 1}
    feed = {"x": rng.standard_normal((2, 5, 16)).astype(np.float32)}
    if options.get("mask"):
        feed["m"] = np.array([[1, 1, 1, 0, 0], [1] * 5], np.int32)
    assert decibels(run(model, feed)[0], run(result, feed)[0]) > 30


def test_attention_without_a_bias_is_left_alone(tmp_path):
    _, report = quantized(made.attention(bias=False), tmp_path, verify=False)
    assert not report.quantized
    assert "ends the process" in report.skips[0].reason


@pytest.mark.parametrize("how", [{}, {"per_channel": False}, {"weight_type": "QUInt8"}])
@pytest.mark.parametrize(
    ("rows", "weight", "dtype"),
    [
        ("3, 4, 8", (3, 8, 5), "float"),
        ("4, 8", (3, 8, 5), "float"),
        ("2, 3, 4, 8", (3, 8, 5), "float"),
        ("4, 8", (1, 8, 5), "float"),
        ("3, 4, 8", (2, 1, 8, 5), "float"),
        ("3, 4, 8", (3, 8, 5), "float16"),
    ],
)
def test_a_batch_of_matrices_is_that_of_its_codes(tmp_path, rows, weight, dtype, how, rng):
    model = made.batch(rows, weight, dtype)
    result, report = quantized(model, tmp_path, **how)
    assert operators(result).count("MatMulInteger") == 1
    assert report.quantized == {"MatMul": 1}
    known = initializers(result)
    x = rng.standard_normal([int(size) for size in rows.split(", ")]).astype(
        "float16" if dtype == "float16" else "float32"
    )
    codes = known["w_quantized"].astype(np.float64) - known["w_shared_zero_point"]
    real = run(result, {"x": x})[0]
    tolerance = 1e-2 if dtype == "float16" else 1e-5
    np.testing.assert_allclose(
        real, by_hand(x.astype(np.float32), codes, known["w_scale"], 0, 0), rtol=tolerance, atol=tolerance
    )
    assert known["w_scale"].shape == ((*weight[:-2], 1, weight[-1]) if how.get("per_channel", True) else ())
    assert decibels(run(model, {"x": x})[0], real) > 30


@pytest.mark.parametrize(
    ("options", "how"),
    [
        ({}, {"mask": True}),
        ({"segments": False}, {"per_channel": True}),
        ({"outputs": "y"}, {"weight_type": "QUInt8"}),
        ({"mask": True, "segments": False}, {"reduce_range": True}),
    ],
)
def test_an_embedding_is_that_of_its_codes(tmp_path, options, how, rng):
    """Rows of codes are added up and normalized: in float64, and in ONNX Runtime's own float operator nearly so."""
    given, how = (options, how) if "mask" not in how else (how, options)
    model = made.embedding(**given)
    result, report = quantized(model, tmp_path, **how)
    assert operators(result) == ["QEmbedLayerNormalization"]
    assert report.quantized == {"EmbedLayerNormalization": 1}
    known = initializers(result)
    real = {
        name: (known[f"{name}_quantized"].astype(np.float64) - known[f"{name}_zero_point"]) * known[f"{name}_scale"]
        for name in ("word", "position", "segment", "gamma", "beta")
        if f"{name}_quantized" in known
    }
    shape = (3, 7)
    kept = (np.arange(7) < np.array([[2], [7], [5]])).astype(np.int32)
    feed = {
        "i": rng.integers(0, 20, shape).astype(np.int32),
        "k": rng.integers(0, 2, shape).astype(np.int32),
        "a": kept,
    }
    feed = {one.name: feed[one.name] for one in model.graph.input}
    rows = real["word"][feed["i"]] + real["position"][:7]
    rows = rows + real["segment"][feed["k"]] if "segment" in real else rows
    spread = np.sqrt(rows.var(axis=-1, keepdims=True) + 1e-6)
    wanted = (rows - rows.mean(axis=-1, keepdims=True)) / spread * real["gamma"] + real["beta"]
    y, *index = run(result, feed)
    np.testing.assert_allclose(y, wanted, rtol=1e-4, atol=1e-5)
    float_y, *float_index = run(model, feed)
    assert decibels(float_y, y) > 30
    np.testing.assert_equal(index, float_index)


def test_seven_bit_weights_never_saturate_pairs(tmp_path):
    model = build("g (float[m, 8] x) => (float[m, 4] y) { y = MatMul(x, w) }", {"w": np.full((8, 4), 0.5, np.float32)})
    result, _ = quantized(model, tmp_path, target="cpu-x86-avx2")
    codes = initializers(result)["w_quantized"]
    assert 2 * 255 * np.abs(codes.astype(int)).max() <= np.iinfo(np.int16).max


def test_the_public_signature_is_the_peers():
    peer = pytest.importorskip("onnxruntime.quantization")
    theirs, ours = (inspect.signature(one).parameters for one in (peer.quantize_dynamic, quantize_dynamic))
    assert list(ours)[: len(theirs)] == list(theirs)
    assert all(one.kind is inspect.Parameter.KEYWORD_ONLY for one in list(ours.values())[len(theirs) :])
