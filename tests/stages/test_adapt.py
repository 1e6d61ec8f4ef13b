"""Adapt: each pass brings its operators, and the float outputs stay but for what is said to be an approximation."""

from dataclasses import fields

import numpy as np
import onnx_ir as ir
import pytest

from models.build import build
from tests.quantizers.flow import run, sqnr
from vqonnx import plan, quantize_static
from vqonnx.errors import SampleError
from vqonnx.graph.io import load
from vqonnx.stages.adapt import Adaptation, adapt, adapt_border, approximate
from vqonnx.stages.layer_equalization import Equalization, equalized_layers
from vqonnx.stages.prepare import prepare
from vqonnx.transforms.cross_layer import CrossLayerEqualization
from vqonnx.transforms.dpu_simulation import DpuSimulation

R = np.random.default_rng(5)


def normal(*shape):
    return R.normal(size=shape).astype(np.float32)


WEIGHT, BIAS = normal(6, 4, 1, 1), normal(4)
NORM = {name: np.full(4, value, np.float32) for name, value in (("g", 1.5), ("m", 0.3), ("v", 2.0))}
NORMALIZED = (
    "m = ReduceMean <axes = [-1]> (x)\nd = Sub (x, m)\ns = Pow (d, two)\nv = ReduceMean <axes = [-1]> (s)\n"
    "e = Add (v, eps)\nr = Sqrt (e)\nn = Div (d, r)\nf = Mul (n, g)\ny = Add (f, b)"
)
CASES = {
    "batch_norms": ("n = BatchNormalization (x, g, b, m, v)\ny = Relu (n)", {**NORM, "b": BIAS}, "Conv"),
    "splits": ("p, q = Split <axis = 1> (x, s)\ny = Sub (p, q)", {"s": np.array([2, 2])}, "Slice"),
    "large_pools": ("y = GlobalAveragePool (x)", {}, "AveragePool"),
    "gelus": (
        "d = Div (x, r)\ne = Erf (d)\na = Add (e, one)\nm = Mul (x, a)\ny = Mul (m, h)",
        {"r": np.float32(2**0.5), "one": np.float32(1), "h": np.float32(0.5)},
        "Gelu",
    ),
    "layer_norms": (
        NORMALIZED,
        {"two": np.float32(2), "eps": np.float32(1e-5), "g": normal(32), "b": normal(32)},
        "LayerNormalization",
    ),
    "own_biases": (
        "p = Conv (x, w, b)\nq = Conv (x, u, b)\ny = Add (p, q)",
        {"w": normal(4, 4, 1, 1), "u": normal(4, 4, 1, 1), "b": BIAS},
        None,
    ),
}
FEED = {"x": normal(2, 4, 32, 32)}


def network(body, weights, opset=17):
    shape = "float[2, 4, 32, 32]"
    return build(f"g ({shape} x) => (float[A, B, C, D] y) {{\n{body}\n}}", weights, opset=opset)


def assert_close(one, other, tolerance=2e-5):
    assert one["y"].shape == other["y"].shape
    np.testing.assert_allclose(one["y"], other["y"], atol=tolerance * np.abs(other["y"]).max())


@pytest.mark.parametrize("name", list(CASES))
def test_exact_passes_keep_the_outputs(name):
    body, weights, operator = CASES[name]
    prepared = prepare(load(network(body, weights, opset=20 if name == "gelus" else 17))).model
    before = load(prepared)
    counts = adapt(prepared, Adaptation(**{name: True}))
    assert sum(counts.values()) > 0
    assert operator is None or operator in {node.op_type for node in prepared.graph}
    assert_close(run(prepared, FEED), run(before, FEED))
    assert all(value.shape is not None for node in prepared.graph for value in node.outputs)
    assert adapt(load(before), Adaptation()) == {}


def test_the_border_changes_types_sizes_layout_and_opset():
    model = build(
        "g (float16[N, 4, 8, 8] x) => (float16[N, 6, 8, 8] y) {\ny = Conv (x, w)\n}",
        {"w": WEIGHT.astype(np.float16)},
        opset=13,
    )
    changed = load(model)
    adapt_border(changed, Adaptation(half_to_float=True, opset=17, sizes={"N": 3}, channels_last=True))
    (x,), (y,) = changed.graph.inputs, changed.graph.outputs
    assert (x.dtype, y.dtype, changed.opset_imports[""]) == (ir.DataType.FLOAT, ir.DataType.FLOAT, 17)
    assert [list(value.shape.numpy()) for value in (x, y)] == [[3, 8, 8, 4], [3, 8, 8, 6]]
    feed = R.normal(size=(3, 4, 8, 8)).astype(np.float16)
    expected = run(model, {"x": feed})["y"].astype(np.float32).transpose(0, 2, 3, 1)
    found = run(changed, {"x": feed.astype(np.float32).transpose(0, 2, 3, 1)})["y"]
    np.testing.assert_allclose(found, expected, atol=2e-2)


def test_only_relus_and_the_devices_arithmetic_are_no_exact_passes():
    exact = [field.name for field in fields(Adaptation) if field.type == "bool" and field.name != "relus"]
    assert Adaptation(**dict.fromkeys(exact, True)).is_exact
    assert not Adaptation(relus=True).is_exact
    assert not Adaptation(simulation=DpuSimulation()).is_exact


def test_an_approximation_counts_as_error_of_the_result(tmp_path):
    """The report compares with the model as it was: a Clip that binds and becomes Relu costs what it costs."""
    weights = {"w": 8 * WEIGHT, "lo": np.float32(0), "hi": np.float32(6)}
    model = build(
        "g (float[2, 4, 32, 32] x) => (float[A, B, C, D] y) {\nc = Conv (x, w)\ny = Clip (c, lo, hi)\n}", weights
    )
    samples = [{"x": normal(2, 4, 32, 32)} for _ in range(16)]
    worst = {}
    for relus in (False, True):
        report = quantize_static(
            model, tmp_path / "m.onnx", samples, preset="a16w8", extra_options={"ReplaceClip6Relu": relus},
            progress=lambda *_: None,
        )  # fmt: skip
        worst[relus] = report.verification.worst_db
        assert ("Clips made Relus 1" in {option.value for option in report.options}) == relus
    assert worst[False] > 40
    assert worst[True] < 10
    prepared = prepare(load(model)).model
    assert approximate(prepared, Adaptation(relus=True)) == ({"Clips made Relus": 1}, ())


def test_what_stays_float_keeps_its_arithmetic(tmp_path):
    """A Sigmoid that is excluded is no HardSigmoid, since the device never runs it."""
    weights = {"w": WEIGHT}
    text = """g (float[2, 4, 16, 16] x) => (float[A, B, C, D] y) {
        c = Conv (x, w)
        y = Sigmoid (c)
    }"""
    samples = [{"x": normal(2, 4, 16, 16)} for _ in range(8)]
    found = {}
    for exclude in ([], ["op:Sigmoid"], ["*"]):
        report = quantize_static(
            build(text, weights), tmp_path / "m.onnx", samples, preset="xint8", nodes_to_exclude=exclude,
            progress=lambda *_: None,
        )  # fmt: skip
        found[tuple(exclude)] = report
        ops = {node.op_type for node in load(tmp_path / "m.onnx").graph}
        assert ("HardSigmoid" in ops) == (not exclude)
    assert found[()].verification.worst_db < found["op:Sigmoid",].verification.worst_db
    assert found["*",].verification.worst_db == np.inf  # nothing was quantized, and nothing changed


@pytest.mark.parametrize("how", list(Equalization))
def test_equalized_layers_leave_the_outputs(how):
    spread = np.geomspace(0.01, 10, 6).astype(np.float32).reshape(6, 1, 1, 1)
    weights = {
        "w": WEIGHT * spread, "b": 0.1 * normal(6),
        "u": normal(4, 6, 3, 3), "lo": np.float32(0), "hi": np.float32(2),
    }  # fmt: skip
    clip = "Clip (c, lo, hi)" if how is Equalization.THROUGH_CLIPS else "Relu (c)"
    model = prepare(load(network(f"c = Conv (x, w, b)\nr = {clip}\ny = Conv (r, u)", weights))).model
    before = load(model)
    assert equalized_layers(model, how, CrossLayerEqualization()) == (how is not Equalization.NONE)
    assert_close(run(model, FEED), run(before, FEED))
    sizes = np.abs(model.graph[0].inputs[1].const_value.numpy()).max(axis=(1, 2, 3))
    assert (sizes.max() / sizes.min() < 100) == (how is not Equalization.NONE)


def test_the_parts_of_a_written_out_softmax_are_not_quantized_one_by_one(tmp_path):
    weights = {"w": normal(32, 32), "u": normal(32, 32)}
    model = network("p = MatMul (x, w)\ns = Softmax (p)\ny = MatMul (s, u)", weights)
    feeds = [{"x": normal(2, 4, 32, 32)} for _ in range(16)]
    options = {"SimulateDPU": True, "ConvertSoftmaxToDPUVersion": True}
    report = quantize_static(
        model, tmp_path / "m.onnx", feeds, preset="a8w8", extra_options=options, progress=lambda *_: None
    )
    assert report.quantized == {"MatMul": 2}
    assert report.verification.worst_db > 25
    assert set(plan(model, preset="a8w8", extra_options=options).nodes) == set(report.planned)


def test_samples_fit_the_border_that_is_written(tmp_path):
    model = build(
        "g (float16[N, 4, 8, 8] x) => (float16[N, 6, 8, 8] y) {\ny = Conv (x, w)\n}", {"w": WEIGHT.astype("f2")}
    )
    options = {"ConvertFP16ToFP32": True, "ConvertNCHWToNHWC": True, "FixShapes": {"N": 2}}
    feeds = [{"x": normal(2, 8, 8, 4)} for _ in range(16)]
    path = tmp_path / "m.onnx"
    report = quantize_static(model, path, feeds, preset="a8w8", extra_options=options, progress=lambda *_: None)
    assert report.verification.worst_db > 35
    (x,) = load(path).graph.inputs
    assert (x.dtype, list(x.shape.numpy())) == (ir.DataType.FLOAT, [2, 8, 8, 4])
    expected = run(model, {"x": feeds[0]["x"].transpose(0, 3, 1, 2).astype(np.float16)})["y"].transpose(0, 2, 3, 1)
    assert sqnr(expected, run(load(path), feeds[0])["y"]) > 35
    nchw = [{"x": normal(2, 4, 8, 8)} for _ in range(16)]
    with pytest.raises(SampleError, match="has shape"):
        quantize_static(model, path, nchw, preset="a8w8", extra_options=options, progress=lambda *_: None)
