"""Bias correction in bodies: the mean of a channel over all runs comes back to the float model's."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.build import Weights, build
from tests.faults.flow import static
from tests.quantizers.flow import normals, quantizer, run
from vqonnx.flows import drafting
from vqonnx.graph.inference import infer_missing
from vqonnx.graph.io import load
from vqonnx.stages.correct_bodies import Watched, channel_means, correct_bodies, correctable_inside
from vqonnx.stages.correct_fast import correct_fast
from vqonnx.stages.emit import emit

COARSE = {"weight_qType": "QInt4"}
"""4-bit weights shift means enough to be seen."""
TRIPS = 30


def branches() -> onnx.ModelProto:
    """A convolution in one branch, two in the other, one behind both."""
    weights = Weights(61)
    for name, shape in (("a", (6, 3, 3, 3)), ("b", (6, 3, 3, 3)), ("c", (6, 6, 1, 1)), ("d", (4, 6, 1, 1))):
        weights.conv(name, *shape)
    text = """g (float[N, 3, 8, 8] x) => (float[N, 6, 6, 6] y, float[N, 4, 6, 6] z) {
        s = ReduceMax <keepdims = 0> (x)
        two = Constant <value = float {2.6}> ()
        high = Greater (s, two)
        y = If (high) <then_branch = t () => (float[N, 6, 6, 6] p) { p = Conv (x, a_w, a_b) },
                       else_branch = e () => (float[N, 6, 6, 6] r) {
                           q = Conv (x, b_w, b_b) rq = Relu (q) r = Conv (rq, c_w, c_b) }>
        z = Conv (y, d_w, d_b)
    }"""
    return build(text, weights.arrays)


def trips() -> onnx.ModelProto:
    """Two layers in a Loop that hands the second one's result on, and puts each out."""
    weights = Weights(62)
    for name in "ab":
        weights.linear(name, 12, 12)
    weights.arrays |= {"trips": np.array(TRIPS), "low": np.float32(-1), "high": np.float32(1)}
    text = """g (float[N, 12] x) => (float[N, 12] y, float[t, N, 12] as, float[t, N, 12] bs) {
        y, as, bs = Loop (trips, , x) <body = step (int64 i, bool c, float[N, 12] h)
            => (bool d, float[N, 12] k, float[N, 12] a, float[N, 12] b) {
            d = Identity (c)
            a = Gemm (h, a_w, a_b)
            ra = Tanh (a)
            b = Gemm (ra, b_w, b_b)
            k = Add (b, x)
        }>
    }"""
    return build(text, weights.arrays)


def inner_reader() -> onnx.ModelProto:
    """A layer of a body that only a body inside it reads."""
    weights = Weights(63)
    for name in "ab":
        weights.linear(name, 12, 12)
    text = """g (float[N, 12] x, bool c) => (float[N, 12] y) {
        y = If (c) <then_branch = t () => (float[N, 12] p) {
                a = Gemm (x, a_w, a_b) r = Relu (a)
                p = If (c) <then_branch = u () => (float[N, 12] q) { q = Gemm (r, b_w, b_b) },
                            else_branch = v () => (float[N, 12] s) { s = Neg (x) }> },
            else_branch = e () => (float[N, 12] z) { z = Neg (x) }>
    }"""
    return build(text, weights.arrays)


def means(model: ir.Model, output: str, feeds: Any, axis: int) -> Any:
    """Mean of each channel of an output over all samples that it is not empty in."""
    found = [run(model, feed)[output] for feed in feeds]
    return np.mean([np.moveaxis(one, axis, 0).reshape(one.shape[axis], -1).mean(1) for one in found], axis=0)


@pytest.mark.parametrize(
    ("model", "shape", "axis", "outputs"),
    [(branches(), (1, 3, 8, 8), 1, ("y",)), (trips(), (2, 12), -1, ("as", "bs", "y"))],
    ids=["branches", "trips"],
)
def test_means_behind_bodies_come_back(
    model: onnx.ModelProto, shape: tuple[int, ...], axis: int, outputs: tuple[str, ...]
) -> None:
    feeds = [dict(feed) for feed in normals(16, {"x": shape})]
    made = quantizer(model, feeds, **COARSE)
    plan, plain = made.current_plan(), made.solve()
    corrected = correct_bodies(made.model, plan, plain, feeds)
    fast = correct_fast(made.model, plan, plain, feeds)
    changed = {key for key, tensor in corrected.constants.items() if tensor is not plain.constants[key]}
    assert changed == {layer.bias for layer in correctable_inside(made.model, plan)}
    for output in outputs:
        wanted = means(made.model, output, feeds, axis)
        given = (means(emit(made.model, plan, one), output, feeds, axis) for one in (plain, corrected, fast))
        before, after, quickly = (np.abs(one - wanted).max() for one in given)
        assert after < 0.4 * before
        assert quickly < 0.5 * before


def test_a_branch_that_no_sample_takes_keeps_its_biases() -> None:
    feeds = normals(8, {"x": (1, 3, 8, 8)})
    made = quantizer(branches(), feeds, **COARSE)
    plan, plain = made.current_plan(), made.solve()
    corrected = correct_bodies(made.model, plan, plain, [{"x": 0.1 * feed["x"]} for feed in feeds])
    changed = {key for key, tensor in corrected.constants.items() if tensor is not plain.constants[key]}
    assert changed == {"b_b", "c_b"}


def test_channel_means_are_those_of_all_runs() -> None:
    """Beside numpy, in trips whose number differs from sample to sample, and where there is none."""
    model = load(
        build("""g (float[2, 3, 4] x, int64 n) => (float[2, 3, 4] y) {
        y = Loop (n, , x) <body = step (int64 i, bool c, float[2, 3, 4] h) => (bool d, float[2, 3, 4] k) {
            d = Identity (c) k = Exp (h) }>
    }""")
    )
    infer_missing(model)
    rng = np.random.default_rng(5)
    feeds = [{"x": rng.normal(size=(2, 3, 4)).astype(np.float32) - 3, "n": np.array(n)} for n in (0, 2, 1)]
    watched = {"rows": Watched("k", 4, rank=None), "channels": Watched("k", 3, rank=3)}
    found = channel_means(model, watched, feeds)
    runs = [runs for feed in feeds for runs in trips_of(feed)]
    np.testing.assert_allclose(found["rows"], np.mean(runs, axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found["channels"], np.mean(runs, axis=(0, 1, 3)), rtol=1e-5)
    assert channel_means(model, watched, feeds[:1]) == {}
    assert channel_means(model, watched, [*feeds, feeds[1] | {"x": feeds[1]["x"] + 100}]) == {}  # overflows


def trips_of(feed: dict[str, Any]) -> list[Any]:
    """What each trip gives, in float64."""
    state, found = feed["x"].astype(np.float64), []
    for _ in range(int(feed["n"])):
        state = np.exp(state)
        found.append(state)
    return found


def test_a_layer_that_only_an_inner_body_reads() -> None:
    feeds = [feed | {"c": np.array(True)} for feed in normals(4, {"x": (2, 12)})]
    made = quantizer(inner_reader(), feeds, **COARSE)
    plan, plain = made.current_plan(), made.solve()
    corrected = correct_bodies(made.model, plan, plain, feeds)
    assert np.any(corrected.constants["b_b"].codes != plain.constants["b_b"].codes)


@pytest.mark.parametrize("few", [16, 0])
def test_reports_count_the_biases_of_bodies(few: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether each is measured, or there are too many for that."""
    monkeypatch.setattr(drafting, "_FEW_INSIDE", few)
    report = static(branches(), tmp_path / "m.onnx", normals(8, {"x": (1, 3, 8, 8)}), bias_correction="on")
    assert report.bias_correction is not None
    assert report.bias_correction.corrected == 4
