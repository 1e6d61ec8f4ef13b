"""Equalize: channels come closer, and float outputs stay."""

import numpy as np
import pytest

from models.build import Weights, build
from vqonnx.errors import SampleError
from vqonnx.graph.io import load
from vqonnx.runtime.session import add_outputs, open_session
from vqonnx.stages import equalize as stage
from vqonnx.stages.equalize import MOST_SAMPLES, equalize
from vqonnx.stages.observe import ObserveOptions
from vqonnx.stages.prepare import prepare

# A block as MobileNetV2 has it: its stream is p, r, t.
TEXT = """
g (float[N, 3, 8, 8] x) => (float[N, 5] y) {
  p = Conv (x, a_w, a_b)
  e = Conv (p, e_w, e_b)
  f = Clip (e, zero, six)
  d = Conv <group = 12, pads = [1, 1, 1, 1]> (f, d_w, d_b)
  i = Clip (d, zero, six)
  r = Conv (i, r_w, r_b)
  t = Add (p, r)
  u = Conv (t, u_w, u_b)
  v = Relu (u)
  m = GlobalAveragePool (v)
  o = Flatten (m)
  y = Gemm (o, y_w, y_b)
}
"""


def proto(dtype=np.float32, channels=6, spread=(4.0, 0.05, 1.0, 1.0, 0.25, 9.0)):
    made = Weights(0)
    made.conv("a", channels, 3, 1, 1)
    made.conv("e", 12, channels, 1, 1)
    made.conv("d", 12, 1, 3, 3)
    made.conv("r", channels, 12, 1, 1)
    made.conv("u", 10, channels, 1, 1)
    made.linear("y", 10, 5)
    scale = np.array(spread)
    arrays = {**made.arrays, "zero": np.float64(0), "six": np.float64(6)}
    for name in ("a_w", "r_w"):
        arrays[name] = arrays[name] * scale.reshape(-1, 1, 1, 1)
    for name in ("a_b", "r_b"):
        arrays[name] = arrays[name] * scale
    text = TEXT if dtype is np.float32 else TEXT.replace("float[", "float16[")
    return build(text, {name: np.asarray(array, dtype) for name, array in arrays.items()})


def feeds_of(count, dtype=np.float32):
    rng = np.random.default_rng(1)
    return [{"x": rng.normal(size=(1 + i % 2, 3, 8, 8)).astype(dtype)} for i in range(count)]


def outputs(model, feed, names=("y",)):
    return open_session(add_outputs(model, names), threads=1, optimize=False).run(list(names), feed)


def prepared(source):
    model = load(source)
    prepare(model)
    return model


def channel_ranges(model, feeds):
    """[3, C]: of p, r and t, the mean over rows of the largest magnitude, by the formula."""
    rows = [[np.abs(x).max(axis=(2, 3)) for x in outputs(model, feed, ("p", "r", "t"))] for feed in feeds]
    return np.stack([np.concatenate(column).mean(axis=0) for column in zip(*rows, strict=True)])


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float16, 1e-2)])
def test_outputs_stay_and_channels_come_closer(dtype, tolerance):
    original, model = prepared(proto(dtype)), prepared(proto(dtype))
    feeds = feeds_of(8, dtype)
    assert equalize(model, feeds) == 1
    for feed in feeds:
        (expected,), (found,) = outputs(original, feed), outputs(model, feed)
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    before, after = (channel_ranges(one, feeds).max(axis=0) for one in (original, model))
    assert after.max() / after.min() < 0.5 * before.max() / before.min()
    assert after.max() <= before.max() * (1 + tolerance)


def test_the_factors_are_those_of_the_formula():
    original, model, feeds = prepared(proto()), prepared(proto()), feeds_of(4)
    equalize(model, feeds)
    largest = channel_ranges(original, feeds).max(axis=0)
    kernels = [np.abs(original.graph.initializers[name].const_value.numpy()) for name in ("e_w", "u_w")]
    shares = np.max([(w / w.max(axis=1, keepdims=True)).max(axis=(0, 2, 3)) for w in kernels], axis=0)
    wanted = np.sqrt(shares / largest)
    given = channel_ranges(model, feeds)[0] / channel_ranges(original, feeds)[0]
    np.testing.assert_allclose(given / given[0], wanted / wanted[0], rtol=1e-5)


def test_a_depthwise_reader_gives_all_channels_one_range():
    text = "g (float[1, 3, 8, 8] x) => (float[1, 6, 8, 8] y) { p = Conv (x, a_w) y = Conv <group = 6> (p, d_w) }"
    made = Weights(0)
    made.normal("a_w", 6, 3, 1, 1)
    made.normal("d_w", 6, 1, 1, 1)
    made.arrays["a_w"] *= np.array([1, 2, 0.3, 5, 1, 0.6], np.float32).reshape(-1, 1, 1, 1)
    model, feeds = load(build(text, made.arrays)), [{"x": np.ones((1, 3, 8, 8), np.float32)}]
    assert equalize(model, feeds) == 1
    (found,) = outputs(model, feeds[0], ("p",))
    ranges = np.abs(found).max(axis=(0, 2, 3))
    np.testing.assert_allclose(ranges, ranges.max(), rtol=1e-5)


def test_channels_that_are_alike_stay():
    text = "g (float[1, 3, 8, 8] x) => (float[1, 5, 8, 8] y) { p = Conv (x, a_w) y = Conv (p, d_w) }"
    arrays = {"a_w": np.ones((6, 3, 1, 1), np.float32), "d_w": np.ones((5, 6, 1, 1), np.float32)}
    model = load(build(text, arrays))
    assert equalize(model, [{"x": np.ones((1, 3, 8, 8), np.float32)}]) == 0
    np.testing.assert_array_equal(model.graph.initializers["a_w"].const_value.numpy(), arrays["a_w"])


def test_a_dead_channel_stays():
    source = proto(spread=(4.0, 0.0, 1.0, 1.0, 0.25, 9.0))
    original, model = prepared(source), prepared(source)
    assert equalize(model, feeds_of(3)) == 1
    before, after = (one.graph.initializers["e_w"].const_value.numpy() for one in (original, model))
    np.testing.assert_array_equal(after[:, 1], before[:, 1])
    assert np.isfinite(after).all()


def test_without_streams_nothing_runs(monkeypatch):
    monkeypatch.setattr(stage, "observe", None)
    text = "g (float[1, 3, 8, 8] x) => (float[1, 6, 8, 8] y) { p = Conv (x, a_w) y = Relu (p) }"
    made = Weights(0)
    made.normal("a_w", 6, 3, 1, 1)
    assert equalize(load(build(text, made.arrays)), []) == 0


@pytest.mark.parametrize(("count", "runs"), [(3, 3), (16, 16), (17, 9), (100, 15)])
def test_few_samples_are_run_and_told(count, runs):
    told = []
    options = ObserveOptions(progress=lambda *args: told.append(args))
    equalize(prepared(proto()), feeds_of(count), options)
    assert told == [("equalize", done, runs) for done in range(1, runs + 1)]
    assert runs <= MOST_SAMPLES


def test_what_is_not_finite_or_missing_is_told():
    with pytest.raises(SampleError, match=r"has .* NaN or infinite elements in calibration sample 0"):
        equalize(prepared(proto()), [{"x": np.full((1, 3, 8, 8), np.nan, np.float32)}])
    with pytest.raises(SampleError, match="no calibration sample"):
        equalize(prepared(proto()), [])
