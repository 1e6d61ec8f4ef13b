"""Layers: each is what its float node computes, in numbers and in place; every other node says why it is none."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from models.build import Array, build
from models.registry import load as load_cases
from models.weights import deep, merged_decoder, quantized
from tests.planning.finding import found_in
from vqonnx.core.weight_plan import Reader
from vqonnx.graph.facts import int_attribute
from vqonnx.graph.io import load
from vqonnx.planning.weights.layers import Layer
from vqonnx.runtime.session import open_session

CASES = load_cases()
TOLERANCE = {"float16": 5e-3, "float32": 1e-5}
ROWS = 5


def alone(layer: Layer, weight: Array, activation: Array) -> Array:
    """What the float node gives, without its bias, when it reads this weight and this activation."""
    node = ir.serde.serialize_node(layer.node)
    feeds = {node.input[layer.weight_index]: weight, node.input[1 - layer.weight_index]: activation}
    del node.input[2:]
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in feeds.items()
    ]
    outputs = [
        onnx.helper.make_tensor_value_info(node.output[0], onnx.helper.np_dtype_to_tensor_dtype(weight.dtype), None)
    ]
    graph = onnx.helper.make_graph([node], "alone", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    if weight.dtype == ml_dtypes.bfloat16:
        return ReferenceEvaluator(model).run(None, feeds)[0]  # type: ignore[no-any-return]
    return open_session(load(model), threads=1, optimize=False).run(None, feeds)[0]  # type: ignore[no-any-return]


def activation_of(layer: Layer, rng: np.random.Generator) -> Array:
    k, dtype = layer.in_features, layer.dtype.numpy()
    if layer.reader is Reader.LOOKUP:
        return rng.integers(-layer.out_features, layer.out_features, (2, ROWS))
    if layer.node.op_type == "Conv":
        return rng.normal(size=(2, k, *[3] * (len(layer.weight.shape) - 2))).astype(dtype)
    if layer.node.op_type == "Gemm":
        return rng.normal(size=(k, ROWS) if int_attribute(layer.node, "transA", 0) else (ROWS, k)).astype(dtype)
    rank = max(2, len(layer.weight.shape))
    return rng.normal(size=(*[2] * (rank - 2), ROWS, k)).astype(dtype)


def by_definition(layer: Layer, w: Array, activation: Array) -> Array:
    """The layer by what ``Layer`` promises: a product with W [K, N], or a choice of its columns."""
    w = w.astype(np.float64)
    if layer.reader is Reader.LOOKUP:
        return w.T[activation]  # type: ignore[no-any-return]
    if layer.node.op_type == "Conv":
        return np.moveaxis(np.moveaxis(activation.astype(np.float64), 1, -1) @ w, -1, 1)
    x = activation.T if int_attribute(layer.node, "transA", 0) else activation
    return x.astype(np.float64) @ w  # type: ignore[no-any-return]


def assert_close(result: Array, expected: Array, dtype: ir.DataType) -> None:
    tolerance = TOLERANCE.get(dtype.numpy().name, 2e-2)
    scale = float(np.abs(expected).max(initial=0)) or 1.0
    np.testing.assert_allclose(result.astype(np.float64), expected, rtol=tolerance, atol=tolerance * scale)


def assert_keeps_its_word(layer: Layer) -> None:
    rng, w = np.random.default_rng(0), layer.read()
    assert w.shape == (layer.in_features, layer.out_features)
    assert w.dtype == layer.dtype.numpy()
    x = activation_of(layer, rng)
    assert_close(alone(layer, layer.weight.read(), x), by_definition(layer, w, x), layer.dtype)
    same = layer.in_layout(w)
    assert (same.shape, same.dtype) == (layer.weight.shape, layer.dtype.numpy())
    if layer.alpha == 1:
        np.testing.assert_array_equal(same.view(np.uint8), np.ascontiguousarray(layer.weight.read()).view(np.uint8))
    other = rng.normal(size=w.shape).astype(np.float32)
    assert_close(alone(layer, layer.in_layout(other), x), by_definition(layer, other, x), layer.dtype)


@pytest.mark.parametrize("name", sorted(CASES))
def test_layers_of_odd_models_compute_what_their_nodes_do(name: str) -> None:
    for requantize in (False, True):
        for layer in found_in(CASES[name].build(), requantize=requantize)[1]:
            assert_keeps_its_word(layer)


@pytest.mark.parametrize("name", sorted(name for name, case in CASES.items() if case.runnable))
def test_weights_put_back_leave_the_model_as_it_was(name: str) -> None:
    case = CASES[name]
    model, layers, _ = found_in(case.build(), requantize=True)
    for number, layer in enumerate(layers):
        constant = ir.Tensor(layer.in_layout(layer.read()), name=f"put_back_{number}")
        value = ir.Value(name=constant.name, const_value=constant, type=ir.TensorType(constant.dtype))
        model.graph.register_initializer(value)
        layer.node.replace_input_with(layer.weight_index, value)
    before, after = (open_session(one, threads=1, optimize=False) for one in (load(case.build()), model))
    for feed in case.feeds(2):
        present = {one.name for one in after.get_inputs()}
        for expected, result in zip(
            before.run(None, feed), after.run(None, {k: v for k, v in feed.items() if k in present}), strict=True
        ):
            tolerance = TOLERANCE.get(expected.dtype.name, 0)
            np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_product_is_a_layer_or_says_why_not(name: str) -> None:
    model, layers, reasons = found_in(CASES[name].build())
    assert not {layer.name for layer in layers} & reasons.keys()
    products = {node.name for node in model.graph.all_nodes() if node.op_type in ("MatMul", "Gemm") and not node.domain}
    assert products <= {layer.name for layer in layers} | reasons.keys()
    assert all(reasons.values())


def test_quantized_weights_are_layers_when_asked_for() -> None:
    for form in ("channels", "blocks", "contrib"):
        _, layers, reasons = found_in(quantized(form))
        assert (layers, list(reasons.values())) == (
            [],
            ["its weight is quantized already; requantize=True takes it as a float weight"],
        )
        assert [layer.name for layer in found_in(quantized(form), requantize=True)[1]] == ["MatMul_1"]


def test_products_of_bodies_are_found_in_the_place_of_their_holder() -> None:
    _, layers, _ = found_in(merged_decoder())
    branches = [f"If_1/{branch}/MatMul_{number}" for branch in ("then_branch", "else_branch") for number in (0, 2)]
    assert [layer.name for layer in layers] == ["Gather_0", *branches]
    assert [layer.is_last for layer in layers] == [False, False, True, False, True]


def test_sixty_layers_are_found_in_order() -> None:
    _, layers, reasons = found_in(deep(60))
    assert [layer.weight.root.name for layer in layers] == [f"layers.{number}.weight" for number in range(60)]
    assert [layer.is_last for layer in layers] == [*[False] * 59, True]
    assert reasons == {}


def test_bfloat16_layers_keep_their_word() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 8)).astype(ml_dtypes.bfloat16)
    nodes = "t = Transpose (w) m = MatMul (x, t) y = Gemm <alpha = 0.5, transB = 1> (x, w)"
    text = f"g (bfloat16[N, 8] x) => (bfloat16[N, 4] y) {{ {nodes} }}"
    _, layers, _ = found_in(build(text, {"w": weight}))
    assert [layer.dtype for layer in layers] == [ir.DataType.BFLOAT16] * 2
    for layer in layers:
        assert_keeps_its_word(layer)


@st.composite
def products(draw: st.DrawFn) -> tuple[str, tuple[int, ...]]:
    """A product of x [3, K] with a weight that perhaps stands behind a chain, and the shape of what is stored."""
    k, n = draw(st.sampled_from([1, 2, 8, 17])), draw(st.sampled_from([1, 3, 8]))
    shape = [k, n]
    trans_b, turned, axis, gemm = (draw(st.booleans()) for _ in range(4))
    nodes = "v = Identity (w)"
    if gemm and trans_b:
        shape.reverse()
    if turned:
        nodes += " t = Transpose (v)"
        shape.reverse()
    else:
        nodes += " t = Cast <to = 1> (v)"
    if axis and not gemm:
        nodes += " a = Constant <value_ints = [0]> () u = Unsqueeze (t, a) s = Squeeze (u, a)"
    else:
        nodes += " s = Mul (t, two)"
    trans_a, alpha = draw(st.booleans()), draw(st.sampled_from([1.0, -0.5, 3.0]))
    form = f"Gemm <transA = {int(trans_a)}, transB = {int(trans_b)}, alpha = {alpha}>" if gemm else "MatMul"
    x = f"float[{k}, 3] x" if gemm and trans_a else f"float[3, {k}] x"
    return f"g ({x}) => (float[3, {n}] y) {{ {nodes} y = {form} (x, s) }}", tuple(shape)


@given(products())
@settings(max_examples=80)
def test_any_product_keeps_its_word(case: tuple[str, tuple[int, ...]]) -> None:
    text, shape = case
    weight = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    (layer,) = found_in(build(text, {"w": weight, "two": np.float32(2)}))[1]
    assert_keeps_its_word(layer)
