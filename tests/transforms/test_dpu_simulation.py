"""Operators get the NPU's arithmetic: what ONNX Runtime computes then is what the kernels say."""

import numpy as np
import pytest

from models.build import build
from vqonnx.errors import UnsupportedModelError
from vqonnx.graph.io import load
from vqonnx.graph.walk import nodes
from vqonnx.kernels import dpu
from vqonnx.runtime.session import open_session
from vqonnx.transforms.dpu_simulation import DpuSimulation, simulate_dpu

NOTHING = {
    "leaky_relu": False,
    "sigmoid": False,
    "hard_sigmoid": False,
    "average_pool": False,
    "reduce_mean": False,
}


def only(*names):
    return DpuSimulation(**{**NOTHING, **dict.fromkeys(names, True)})


def simulated(text, x, options, *, opset=17, dtype="float", arrays=None, count=1):
    """What the model computes after the pass, and its operators. Doing it again changes nothing."""
    dims = ", ".join(map(str, x.shape))
    rank = ", ".join("abcde"[: x.ndim])
    model = load(build(f"g ({dtype}[{dims}] x) => ({dtype}[{rank}] y) {{ {text} }}", arrays or {}, opset=opset))
    assert simulate_dpu(model, options) == count
    (found,) = open_session(model).run(None, {"x": x})
    assert found.dtype == x.dtype
    ops = [node.op_type for node in nodes(model)]
    assert simulate_dpu(model, options) == 0
    return found, ops


@pytest.fixture
def x(rng):
    return rng.uniform(-4, 4, (2, 3, 12, 12)).astype(np.float32)


@pytest.mark.parametrize(
    ("attribute", "slope"), [("<alpha = 0.1>", 26 / 256), ("", 3 / 256), ("<alpha = 0.3>", 77 / 256)]
)
def test_leaky_relus_slope(x, attribute, slope):
    found, _ = simulated(f"y = LeakyRelu {attribute} (x)", x, only("leaky_relu"))
    np.testing.assert_allclose(found, np.where(x < 0, slope * x, x), rtol=1e-6)


def test_a_slope_that_the_device_has_stays(x):
    simulated("y = LeakyRelu <alpha = 0.125> (x)", x, only("leaky_relu"), count=0)


@pytest.mark.parametrize("opset", [7, 13, 22])
def test_sigmoid_is_a_line(x, opset):
    found, ops = simulated("y = Sigmoid (x)", x, only("sigmoid"), opset=opset)
    np.testing.assert_allclose(found, np.clip(x / 6 + 0.5, 0, 1), atol=1e-6)
    assert ops == ["HardSigmoid"]


@pytest.mark.parametrize(
    ("text", "options", "count"),
    [
        ("y = Sigmoid (x)", only("sigmoid", "hard_sigmoid"), 2),
        ("y = HardSigmoid <alpha = 0.16666667, beta = 0.5> (x)", only("hard_sigmoid"), 1),
    ],
)
def test_hard_sigmoids_sixth(x, text, options, count):
    found, ops = simulated(text, x, options, count=count)
    np.testing.assert_allclose(found, np.clip(x / 6 + 0.5, 0, 1) * 6 * 2731 / 16384, atol=1e-6)
    assert ops == ["HardSigmoid", "Mul"]


@pytest.mark.parametrize("attributes", ["", "<alpha = 0.16666667, beta = 0.4>"])
def test_other_hard_sigmoids_stay(x, attributes):
    simulated(f"y = HardSigmoid {attributes} (x)", x, only("hard_sigmoid"), count=0)


@pytest.mark.parametrize(
    ("text", "factor"),
    [
        ("y = AveragePool <kernel_shape = [3, 3]> (x)", 9 * 7 / 64),
        ("y = AveragePool <kernel_shape = [5, 5], strides = [2, 2], pads = [1, 1, 1, 1]> (x)", 25 * 10 / 256),
        ("y = AveragePool <kernel_shape = [3, 2]> (x)", dpu.mean_factor(6)),
        ("y = GlobalAveragePool (x)", dpu.mean_factor(144)),
    ],
)
@pytest.mark.parametrize("dtype", ["float", "float16"])
def test_averages(x, text, factor, dtype):
    x = x.astype({"float": np.float32, "float16": np.float16}[dtype])
    plain = load(build(f"g ({dtype}[2, 3, 12, 12] x) => ({dtype}[a, b, c, d] y) {{ {text} }}"))
    (expected,) = open_session(plain).run(None, {"x": x})
    found, ops = simulated(text, x, only("average_pool"), dtype=dtype)
    np.testing.assert_allclose(found, expected * factor, rtol=1e-2 if dtype == "float16" else 1e-6, atol=1e-3)
    assert ops[-1] == "Mul"


def test_averages_of_one_axis(rng):
    x = rng.normal(size=(2, 3, 12)).astype(np.float32)
    found, _ = simulated("y = GlobalAveragePool (x)", x, only("average_pool"))
    np.testing.assert_allclose(found, x.mean(2, keepdims=True) * dpu.average_pool_factor(1, 12), rtol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "y = AveragePool <kernel_shape = [2, 2]> (x)",  # 1 / 4 is exact
        "y = AveragePool <kernel_shape = [4, 8]> (x)",
        "y = MaxPool <kernel_shape = [3, 3]> (x)",
    ],
)
def test_exact_averages_stay(x, text):
    simulated(text, x, only("average_pool"), count=0)


def test_unknown_and_three_dimensional_averages_stay():
    text = "g (float[1, 2, H, 5] x) => (float[a, b, c, d] y) { y = GlobalAveragePool (x) }"
    assert simulate_dpu(load(build(text))) == 0
    text = "g (float[1, 2, 5, 5, 5] x) => (float[a, b, c, d, e] y) { y = GlobalAveragePool (x) }"
    assert simulate_dpu(load(build(text))) == 0
    text = "g (float[1, 2, H, 5] x) => (float[a, b, c, d] y) { y = ReduceMean <axes = [2]> (x) }"
    assert simulate_dpu(load(build(text))) == 0


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("axes", [(1,), (-1, 2)])
def test_means(x, opset, axes):
    text = f"y = ReduceMean <axes = {list(axes)}> (x)" if opset < 18 else "y = ReduceMean (x, axes)"
    found, ops = simulated(
        text, x, only("reduce_mean"), opset=opset, arrays={"axes": np.int64(axes)} if opset >= 18 else {}
    )
    count = int(np.prod([x.shape[axis] for axis in axes]))
    np.testing.assert_allclose(found, x.mean(axes, keepdims=True) * dpu.mean_factor(count), rtol=1e-4, atol=1e-6)
    assert ops == ["ReduceMean", "Mul"]


@pytest.mark.parametrize(
    ("text", "opset", "bounds"),
    [
        ("y = Clip (x, low, high)", 17, (-1, 3)),
        ("y = Clip (x, , high)", 17, (-np.inf, 3)),
        ("y = Clip <min = -0.6, max = 2.7> (x)", 7, (-1, 3)),
        ("y = Clip <max = 2.7> (x)", 7, (-np.inf, 3)),
    ],
)
def test_bounds_become_integers(x, text, opset, bounds):
    arrays = {"low": np.float32(-0.6), "high": np.float32(2.7)} if opset > 10 else {}
    found, _ = simulated(text, x, only("clip"), opset=opset, arrays=arrays)
    np.testing.assert_array_equal(found, np.clip(x, *bounds))


def test_a_shared_bound_changes_for_the_clip_alone(x):
    text = "c = Clip (x, low, high) y = Mul (c, high)"
    found, _ = simulated(text, x, only("clip"), arrays={"low": np.float32(0), "high": np.float32(2.7)})
    np.testing.assert_allclose(found, np.clip(x, 0, 3) * np.float32(2.7), rtol=1e-6)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("opset", [13, 17, 21])
def test_softmax_in_bfloat16(rng, axis, opset):
    x = rng.uniform(-8, 8, (4, 10, 6)).astype(np.float32)
    found, ops = simulated(f"y = Softmax <axis = {axis}> (x)", x, only("softmax"), opset=opset)
    expected = dpu.softmax(x, axis, reciprocal=False).astype(np.float32)
    assert "Softmax" not in ops
    # Sums are added up in another order; they may round to the next bfloat16.
    np.testing.assert_allclose(found, expected, rtol=2**-7)
    assert (found == expected).mean() > 0.95


def test_softmax_of_other_types_and_opsets(x):
    text = "g (float16[2, 3] x) => (float16[2, 3] y) { y = Softmax (x) }"
    assert simulate_dpu(load(build(text)), only("softmax")) == 0
    with pytest.raises(UnsupportedModelError, match="is written for opset 13, the model has 11"):
        simulate_dpu(load(build("g (float[2] x) => (float[2] y) { y = Neg (x) }", opset=11)), only("softmax"))


def test_outputs_and_bodies(rng):
    text = """
    g (float[1, 3, 3, 3] x, bool c) => (float[1, 3, 1, 1] p, float[1, 3, 1, 1] y) {
      p = GlobalAveragePool (x)
      y = If (c) <then_branch = t () => (float[1, 3, 1, 1] i) { i = GlobalAveragePool (x) },
                  else_branch = e () => (float[1, 3, 1, 1] j) { j = Sigmoid (p) }>
    }
    """
    model, x = load(build(text)), rng.normal(size=(1, 3, 3, 3)).astype(np.float32)
    assert simulate_dpu(model) == 4
    mean, found = open_session(model).run(None, {"x": x, "c": np.array(True)})
    np.testing.assert_allclose(mean, x.mean((2, 3), keepdims=True) * 63 / 64, rtol=1e-5)
    np.testing.assert_array_equal(found, mean)
    assert simulate_dpu(model) == 0


def test_integers_stay():
    assert simulate_dpu(load(build("g (int32[2, 4] x) => (int32[2, 1] y) { y = ReduceMean <axes = [1]> (x) }"))) == 0
    assert simulate_dpu(load(build("g (int8[2] x) => (int8[2] y) { y = Clip (x) }")), only("clip")) == 0
