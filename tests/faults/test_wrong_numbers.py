"""Faults that give wrong numbers without a word; see the index."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models.build import Weights, build
from models.gemm import gemm
from models.ranges import dead_relu, odd_clip
from tests.faults.flow import CASES, FORMS, dynamic, packed, static, worst_db
from tests.quantizers.flow import constants, normals, run, sqnr
from vqonnx.errors import CacheError, SampleError

IMAGES = normals(8, {"x": (2, 3, 8, 8)})
ROWS = normals(8, {"x": (4, 16)})


def two_layers(rows: int = 16) -> onnx.ModelProto:
    """Gemm -> Relu -> Gemm."""
    weights = Weights(900)
    weights.linear("a", rows, 12)
    weights.linear("b", 12, 6)
    text = f"""g (float[N, {rows}] x) => (float[N, 6] y) {{
        h = Gemm (x, a_w, a_b)
        r = Relu (h)
        y = Gemm (r, b_w, b_b)
    }}"""
    return build(text, weights.arrays)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.25), (0.5, 1.0)])
def test_gemm_alpha_and_beta_are_part_of_the_numbers(alpha: float, beta: float, form: str, tmp_path: Path) -> None:
    model = gemm((5,), alpha=alpha, beta=beta)
    feeds = normals(8, {"x": [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]})
    static(model, tmp_path / "m.onnx", feeds, quant_format=form)
    assert worst_db(model, tmp_path / "m.onnx", feeds) > 30


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("low", "high"), [(1, 3), (-3, -1)])
def test_clips_with_odd_bounds_still_clip(low: float, high: float, form: str, tmp_path: Path) -> None:
    model = odd_clip(low, high)
    feeds = normals(8, {"x": (2, 3, 6, 6)})
    static(model, tmp_path / "m.onnx", feeds, quant_format=form)
    assert worst_db(model, tmp_path / "m.onnx", feeds) > 30


def test_a_relu_that_was_dead_in_calibration_still_clips(tmp_path: Path) -> None:
    model = dead_relu()
    static(model, tmp_path / "m.onnx", IMAGES, activation_type="QInt8")
    assert worst_db(model, tmp_path / "m.onnx", normals(2, {"x": (2, 3, 8, 8)}, seed=1)) > 30


@pytest.mark.parametrize("extra", [{"CalibTensorRangeSymmetric": True}, {"ActivationSymmetric": True}])
def test_a_relu_stays_where_its_range_holds_negative_numbers(extra: dict[str, Any], tmp_path: Path) -> None:
    model = two_layers()
    static(model, tmp_path / "m.onnx", ROWS, activation_type="QInt8", extra_options=extra)
    assert worst_db(model, tmp_path / "m.onnx", ROWS) > 30


def test_entropy_is_not_the_observed_range(tmp_path: Path) -> None:
    feeds = [{"x": feed["x"] * np.float32(40 if i == 3 else 1)} for i, feed in enumerate(normals(32, {"x": (64, 16)}))]
    scales = {}
    for method in ("Entropy", "MinMax"):
        static(two_layers(), tmp_path / "m.onnx", feeds, calibrate_method=method)
        scales[method] = constants(onnx.load(tmp_path / "m.onnx"))["x_scale"]
    assert scales["Entropy"] < 0.9 * scales["MinMax"]


@pytest.mark.parametrize("chunk", [1, 3, 4, 8])
def test_calibration_in_chunks_drops_no_sample(chunk: int, tmp_path: Path) -> None:
    feeds = [{"x": feed["x"] * np.float32(i + 1)} for i, feed in enumerate(ROWS)]
    for path, extra in ((tmp_path / "a", {}), (tmp_path / "b", {"CalibMaxIntermediateOutputs": chunk})):
        static(two_layers(), path, feeds, extra_options=extra)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def half(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float16)


@pytest.mark.parametrize("size", [1e-3, 2e-5])
def test_float16_weights_of_a_small_range_do_not_become_zero(size: float, tmp_path: Path) -> None:
    weight = half(np.random.default_rng(0).normal(0, size, (16, 8)))
    model = build("g (float16[N, 16] x) => (float16[N, 8] y) { y = MatMul (x, w) }", {"w": weight})
    feeds = [{"x": half(feed["x"])} for feed in ROWS]
    static(model, tmp_path / "m.onnx", feeds)
    assert worst_db(model, tmp_path / "m.onnx", feeds) > 30


def test_float16_softmax_has_a_scale_of_its_type(tmp_path: Path) -> None:
    weight = half(np.random.default_rng(0).normal(0, 0.3, (16, 8)))
    text = "g (float16[N, 16] x) => (float16[N, 8] y) { m = MatMul (x, w) y = Softmax (m) }"
    model, feeds = build(text, {"w": weight}), [{"x": half(feed["x"])} for feed in ROWS]
    static(model, tmp_path / "m.onnx", feeds, extra_options={"ForceQuantizeNoInputCheck": True})
    onnx.checker.check_model(onnx.load(tmp_path / "m.onnx"), full_check=True)
    assert worst_db(model, tmp_path / "m.onnx", feeds) > 30


def test_float16_biases_do_not_overflow(tmp_path: Path) -> None:
    weights = Weights(907)
    for name in "ab":
        weights.conv(name, 16, 16, 3, 3)
    text = """g (float16[N, 16, 8, 8] x) => (float16[N, 16, 4, 4] y) {
        a = Conv (x, a_w, a_b)
        y = Conv (a, b_w, b_b)
    }"""
    model = build(text, {name: half(5 * array if "_b" in name else array) for name, array in weights.arrays.items()})
    feeds = [{"x": half(feed["x"])} for feed in normals(8, {"x": (2, 16, 8, 8)})]
    static(model, tmp_path / "m.onnx", feeds, activation_type="QInt16")
    assert [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node].count("DequantizeLinear") == 7
    assert worst_db(model, tmp_path / "m.onnx", feeds) > 30


@pytest.mark.parametrize("columns", [16, 10])
def test_a_weight_shared_by_transposed_and_plain_readers(columns: int, tmp_path: Path) -> None:
    weights = Weights(901)
    weights.normal("w", 16, columns)
    weights.arrays["w"] *= np.geomspace(0.5, 2, columns, dtype=np.float32)
    text = f"""g (float[N, 16] x) => (float[N, 16] y, float[N, {columns}] z) {{
        h = Gemm (x, w)
        y = Gemm <transB = 1> (h, w)
        z = MatMul (x, w)
    }}"""
    model = build(text, weights.arrays)
    for quantize in (dynamic, lambda *a: static(*a, ROWS)):
        quantize(model, tmp_path / "m.onnx")
        assert worst_db(model, tmp_path / "m.onnx", ROWS) > 20


@pytest.mark.parametrize(("bad", "method"), [(np.inf, "MinMax"), (np.nan, "MinMax"), (-np.inf, "Percentile")])
def test_a_number_in_a_sample_that_is_not_finite_is_named(bad: float, method: str, tmp_path: Path) -> None:
    feeds = [{"x": feed["x"].copy()} for feed in ROWS]
    feeds[5]["x"][0, 0] = bad
    with pytest.raises(SampleError) as caught:
        static(two_layers(), tmp_path / "m.onnx", feeds, calibrate_method=method)
    assert (caught.value.sample, caught.value.tensor) == (5, "x")
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("method", ["Percentile", "Entropy", "MSE"])
def test_samples_of_any_size_and_of_none_are_counted(method: str, tmp_path: Path) -> None:
    feeds = [{"x": np.random.default_rng(n).normal(size=(n, 16)).astype(np.float32)} for n in (3, 1, 0, 7, 2)]
    static(two_layers(), tmp_path / "m.onnx", (feed for feed in feeds), calibrate_method=method)
    assert worst_db(two_layers(), tmp_path / "m.onnx", feeds) > 20


@pytest.mark.parametrize(
    ("quantize", "name"),
    [
        (lambda *a: static(*a, ROWS), "{}_scale"),
        (lambda *a: static(*a, ROWS), "{}_quantized"),
        (dynamic, "{}_scale"),
        (dynamic, "{}_quantized"),
        (lambda *a: packed(*a, bits=8), "{}_scales"),
        (lambda *a: packed(*a, bits=8), "{}_Q8"),
    ],
)
def test_a_users_initializer_with_our_name_keeps_its_numbers(quantize: Any, name: str, tmp_path: Path) -> None:
    model = two_layers()
    for node in model.graph.node:
        node.input[:] = [name.format("a_w") if value == "b_b" else value for value in node.input]
    next(t for t in model.graph.initializer if t.name == "b_b").name = name.format("a_w")
    quantize(model, tmp_path / "m.onnx")
    assert worst_db(model, tmp_path / "m.onnx", ROWS) > 30


def test_a_cache_of_another_model_is_refused(tmp_path: Path) -> None:
    cache = {"calibration_cache_path": tmp_path / "cache"}
    static(two_layers(), tmp_path / "m.onnx", ROWS, **cache)
    other = two_layers()
    other.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(9 * numpy_helper.to_array(other.graph.initializer[0]), other.graph.initializer[0].name)
    )
    with pytest.raises(CacheError, match="model"):
        static(other, tmp_path / "m.onnx", ROWS, **cache)
    (tmp_path / "cache").write_bytes((tmp_path / "cache").read_bytes()[:-40])
    with pytest.raises(CacheError):
        static(two_layers(), tmp_path / "m.onnx", ROWS, **cache)


def test_one_outlier_among_biases_costs_the_others_nothing(tmp_path: Path) -> None:
    weights = Weights(902)
    weights.linear("a", 16, 12)
    weights.arrays["a_b"][3] = 300
    model = build("g (float[N, 16] x) => (float[N, 12] y) { m = MatMul (x, a_w) y = Add (m, a_b) }", weights.arrays)
    static(model, tmp_path / "m.onnx", ROWS)
    rest = build(
        "g (float[N, 16] x) => (float[N, 11] y) { m = MatMul (x, a_w) a = Add (m, a_b) y = Gather <axis = 1> (a, k) }",
        {**weights.arrays, "k": np.array([i for i in range(12) if i != 3])},
    )
    gathered = onnx.load(tmp_path / "m.onnx")
    gathered.graph.initializer.append(numpy_helper.from_array(np.array([i for i in range(12) if i != 3]), "k"))
    gathered.graph.node.append(onnx.helper.make_node("Gather", ["y", "k"], ["z"], axis=1))
    gathered.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("z", 1, ["N", 11]))
    rest.graph.node[-1].output[0] = rest.graph.output[0].name = "z"
    onnx.save(gathered, tmp_path / "rest.onnx")
    assert worst_db(rest, tmp_path / "rest.onnx", ROWS) > 35


def test_a_bias_under_two_unnamed_convolutions_has_a_scale_for_each(tmp_path: Path) -> None:
    model = CASES["sharing/one_bias"].build()
    for node in model.graph.node:
        node.name = ""
    feeds = list(CASES["sharing/one_bias"].feeds(8))
    report = static(model, tmp_path / "m.onnx", feeds)
    assert report.quantized["Conv"] == 2
    biases = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer}
    scales = [
        biases[node.input[1]].ravel()
        for node in onnx.load(tmp_path / "m.onnx").graph.node
        if node.op_type == "DequantizeLinear" and biases.get(node.input[0], np.zeros(0)).dtype == np.int32
    ]
    assert len(scales) == 2
    assert scales[1].mean() > 10 * scales[0].mean() or scales[0].mean() > 10 * scales[1].mean()
    assert worst_db(model, tmp_path / "m.onnx", feeds) > 30


def test_float16_products_of_bodies_are_not_fused_to_zeros(tmp_path: Path) -> None:
    weight = half(np.random.default_rng(0).normal(0, 0.3, (32, 32)))
    text = """g (float16[N, 32] x, bool c) => (float16[N, 32] y, float16[N, 32] z) {
        z = MatMul (x, w)
        y = If (c) <then_branch = one () => (float16[N, 32] t) { t = MatMul (z, w) },
                    else_branch = two () => (float16[N, 32] e) { e = Neg (z) }>
    }"""
    model, path = build(text, {"w": weight}), tmp_path / "m.onnx"
    feeds = [{"x": half(np.random.default_rng(i).normal(size=(3, 32))), "c": np.array(True)} for i in range(3)]
    for form in ("matmul_nbits", "qdq", "channel_qdq"):
        packed(model, path, bits=8, block_size=None if form == "channel_qdq" else 32, format=form)
        assert worst_db(model, path, feeds) > 30


@pytest.mark.parametrize("form", ["matmul_nbits", "qdq", "channel_qdq"])
def test_a_weight_of_zeros_gives_zeros(form: str, tmp_path: Path) -> None:
    model = build(
        "g (float[N, 32] x) => (float[N, 16] y, float[N, 16] z) { y = MatMul (x, w) z = MatMul (x, v) }",
        {"w": np.zeros((32, 16), np.float32), "v": np.eye(32, 16, dtype=np.float32)},
    )
    (feed,) = normals(1, {"x": (3, 32)})
    packed(model, tmp_path / "m.onnx", bits=8, block_size=None if form == "channel_qdq" else 16, format=form)
    found = run(onnx.load(tmp_path / "m.onnx"), feed, optimize=True)
    assert np.abs(found["y"]).max() < 1e-3
    assert sqnr(feed["x"][:, :16], found["z"]) > 30
