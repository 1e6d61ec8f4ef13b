"""What attributes and inputs mean, over the opsets that say it differently."""

import math

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from models.build import Weights, build
from vqonnx.graph.facts import clip_bounds, conv_pads, float_attribute, int_attribute, linear_add, reduced_axes
from vqonnx.graph.io import load

INF = math.inf


def graph_of(model: onnx.ModelProto) -> ir.Graph:
    return load(model).graph


def last_node(model: onnx.ModelProto) -> ir.Node:
    return graph_of(model)[-1]


def clip(text: str, opset: int = 17, **arrays: object) -> ir.Node:
    return last_node(build(f"g (float[N, 2] x) => (float[N, 2] y) {{\n{text}\n}}", arrays, opset=opset))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("node", "bounds"),
    [
        (clip("y = Relu (x)"), (0.0, INF)),
        (clip("y = Clip (x)"), (-INF, INF)),
        (clip("y = Clip (x, low)", low=np.float32(-1)), (-1.0, INF)),
        (clip("y = Clip (x, low, high)", low=np.float32(0), high=np.float32(6)), (0.0, 6.0)),
        (clip("y = Clip <min = 0.0, max = 6.0> (x)", opset=7), (0.0, 6.0)),
        (clip("y = Clip <max = 6.0> (x)", opset=7), (-INF, 6.0)),
        (clip("low = Constant <value_float = -2.0> ()\ny = Clip (x, low)"), (-2.0, INF)),
        (clip("y = Clip (x, , high)", high=np.float32(6)), (-INF, 6.0)),
    ],
)
def test_bounds_of_a_clip(node: ir.Node, bounds: tuple[float, float]) -> None:
    assert clip_bounds(node) == bounds


def test_bounds_that_are_computed_are_not_known() -> None:
    model = build("g (float[N, 2] x, float low) => (float[N, 2] y) {\ny = Clip (x, low)\n}")
    assert clip_bounds(last_node(model)) is None


def test_attributes_have_defaults() -> None:
    weights = Weights(0)
    weights.normal("w", 4, 2, 3, 3)
    model = build("g (float[N, 4, 5, 5] x) => (float[N, 4, 3, 3] y) {\ny = Conv <group = 2> (x, w)\n}", weights.arrays)
    assert (int_attribute(last_node(model), "group", 1), int_attribute(last_node(model), "axis", 7)) == (2, 7)
    relu = clip("y = LeakyRelu <alpha = 0.5> (x)")
    assert (float_attribute(relu, "alpha", 0.01), float_attribute(relu, "beta", 3.0)) == (0.5, 3.0)


def matmul_add(add: str, bias: tuple[int, ...] = (5,), weight: tuple[int, ...] = (8, 5), more: str = "") -> ir.Node:
    weights = Weights(0)
    weights.normal("w", *weight)
    weights.bias("b", *bias)
    text = f"g (float[N, M, 8] x) => (float[A, B, C] y) {{\nm = MatMul (x, w)\n{more}\n{add}\n}}"
    return next(node for node in graph_of(build(text, weights.arrays)) if node.op_type == "MatMul")


@pytest.mark.parametrize(
    ("node", "index"),
    [
        (matmul_add("y = Add (m, b)"), 1),
        (matmul_add("y = Add (b, m)"), 0),
        (matmul_add("y = Add (m, b)", bias=(1, 5)), 1),
        (matmul_add("y = Add (m, b)", bias=(1, 1, 5)), 1),
    ],
)
def test_the_add_behind_a_product_is_its_bias(node: ir.Node, index: int) -> None:
    found = linear_add(node)
    assert found is not None
    assert (found[0].op_type, found[1]) == ("Add", index)


@pytest.mark.parametrize(
    "node",
    [
        matmul_add("y = Add (m, b)", bias=(1,)),  # a number, not a vector of columns
        matmul_add("y = Add (m, b)", bias=(5, 1)),  # along the rows
        matmul_add("y = Add (m, b)", bias=(5, 5)),
        matmul_add("y = Mul (m, b)"),
        matmul_add("y = Add (m, t)", more="t = Tanh (m)"),  # the product has another reader
        matmul_add("y = Add (m, t)", more="t = Tanh (b)", bias=(5,)),  # computed
        matmul_add("y = Add (m, b)", weight=(1, 8, 5)),  # a batch of matrices
        matmul_add("y = Add (m, m)"),
    ],
)
def test_other_additions_are_none(node: ir.Node) -> None:
    assert linear_add(node) is None


def test_a_product_that_is_an_output_keeps_no_bias() -> None:
    weights = Weights(0)
    weights.linear("a", 8, 5)
    text = "g (float[N, 8] x) => (float[N, 5] m, float[N, 5] y) {\nm = MatMul (x, a_w)\ny = Add (m, a_b)\n}"
    assert linear_add(graph_of(build(text, weights.arrays))[0]) is None


def test_only_a_matmul_is_one() -> None:
    assert linear_add(clip("y = Relu (x)")) is None


def reduction(attributes: str = "", second: str = "", opset: int = 17, **arrays: object) -> ir.Node:
    text = f"y = ReduceMean {attributes} (x{second})"
    return last_node(build(f"g (float[N, 2, 3] x) => (float[a, b, c] y) {{\n{text}\n}}", arrays, opset=opset))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("node", "axes"),
    [
        (reduction("<axes = [-1]>"), (2,)),
        (reduction("<axes = [2, 0]>"), (0, 2)),
        (reduction(), (0, 1, 2)),
        (reduction(opset=18), (0, 1, 2)),
        (reduction("<noop_with_empty_axes = 1>", opset=18), ()),
        (reduction("", ", a", 18, a=np.int64([])), (0, 1, 2)),
        (reduction("", ", a", 18, a=np.int64([-2])), (1,)),
        (reduction("", ", a", 18, a=np.int64(-1).reshape(1)), (2,)),
    ],
)
def test_axes_of_a_reduction(node: ir.Node, axes: tuple[int, ...]) -> None:
    assert reduced_axes(node, 3) == axes


def test_axes_that_are_computed_are_not_known() -> None:
    model = build("g (float[N, 2] x, int64[K] a) => (float[b, c] y) { y = ReduceMean (x, a) }", opset=18)
    assert reduced_axes(last_node(model), 2) is None


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
@pytest.mark.parametrize("lengths", [(7, 8), (12, 5)])
@pytest.mark.parametrize(("strides", "dilations"), [((1, 1), (1, 1)), ((2, 3), (1, 1)), ((1, 2), (2, 1))])
def test_explicit_pads_do_what_auto_pad_does(mode, lengths, strides, dilations, rng):
    weight = rng.normal(size=(2, 1, 3, 2)).astype(np.float32)
    x = rng.normal(size=(1, 1, *lengths)).astype(np.float32)
    form = f"dilations = {[*dilations]}, strides = {[*strides]}"
    text = f"g (float[1, 1, {lengths[0]}, {lengths[1]}] x) => (float[N, C, H, W] y)"
    automatic = build(f'{text} {{\n y = Conv <auto_pad = "{mode}", {form}> (x, w)\n}}', {"w": weight})
    pads = conv_pads(last_node(automatic))
    explicit = build(f"{text} {{\n y = Conv <pads = {[*pads]}, {form}> (x, w)\n}}", {"w": weight})
    first, second = (ReferenceEvaluator(model).run(None, {"x": x})[0] for model in (automatic, explicit))
    np.testing.assert_allclose(first, second, rtol=1e-5)


def test_pads_that_are_given_and_pads_that_no_shape_tells():
    text = "g (float[1, 1, H, W] x) => (float[N, C, I, J] y)"
    weight = np.ones((1, 1, 3, 3), np.float32)
    given = build(f"{text} {{\n y = Conv <pads = [1, 0, 2, 3]> (x, w)\n}}", {"w": weight})
    assert conv_pads(last_node(given)) == (1, 0, 2, 3)
    unknown = build(f'{text} {{\n y = Conv <auto_pad = "SAME_UPPER"> (x, w)\n}}', {"w": weight})
    assert conv_pads(last_node(unknown)) is None
