"""Scales and shifts after Conv, ConvTranspose and Gemm move into weight and bias, and outputs stay."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.build import build
from vqonnx.graph.io import load
from vqonnx.graph.walk import constant
from vqonnx.transforms.affine import Layout, per_channel
from vqonnx.transforms.constants import fold_constants
from vqonnx.transforms.fold_affine import fold_batch_norms, fold_channel_arithmetic

RNG = np.random.default_rng(0)
OPSETS = [7, 9, 11, 13, 14, 15, 17, 21]


def normal(*shape, dtype=np.float32):
    return RNG.normal(size=shape).astype(dtype)


def norm(channels, dtype=np.float32):
    """Scale, offset, mean and variance."""
    vectors = {name: normal(channels, dtype=dtype) for name in ("g", "o", "m")}
    return {**vectors, "v": RNG.uniform(0.5, 2, channels).astype(dtype)}


BN = "y = BatchNormalization <epsilon = 0.01> (c, g, o, m, v)"
CONV = "g (float[2, 4, 6, 6] x) => (float[a, b, c, d] y) { c = Conv <kernel_shape = [3, 3]> (x, w) %s }"


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("bias", [False, True])
def test_batch_norm_folds_into_conv(check, opset, bias):
    weights = {"w": normal(8, 4, 3, 3), "b": normal(8), **norm(8)}
    text = CONV % BN
    changed = check(
        build(text.replace("(x, w)", "(x, w, b)") if bias else text, weights, opset=opset), fold_batch_norms
    )
    assert (changed.count, changed.ops) == (1, ["Conv"])


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_groups(check, op, groups):
    shape = (8, 4 // groups, 3, 3) if op == "Conv" else (4, 8 // groups, 3, 3)
    text = f"g (float[2, 4, 6, 6] x) => (float[a, b, c, d] y) {{ c = {op} <group = {groups}> (x, w) {BN} }}"
    changed = check(build(text, {"w": normal(*shape), **norm(8)}), fold_batch_norms)
    assert changed.ops == [op]


@pytest.mark.parametrize("rank", [1, 3])
def test_other_numbers_of_spatial_axes(check, rank):
    size = ", ".join(["5"] * rank)
    text = f"g (float[2, 4, {size}] x) => (float[{', '.join('abcde'[: rank + 2])}] y) {{ c = Conv (x, w) {BN} }}"
    assert check(build(text, {"w": normal(8, 4, *[2] * rank), **norm(8)}), fold_batch_norms).ops == ["Conv"]


@pytest.mark.parametrize(
    "attributes", ["alpha = 1.0", "transB = 1", "transA = 1", "alpha = 0.5", "alpha = 2.0, transB = 1"]
)
def test_batch_norm_folds_into_gemm(check, attributes):
    shape = (8, 3) if "transB" in attributes else (3, 8)
    x = "float[3, 5] x" if "transA" in attributes else "float[5, 3] x"
    text = f"g ({x}) => (float[a, b] y) {{ c = Gemm <{attributes}> (x, w, b) {BN} }}"
    assert check(build(text, {"w": normal(*shape), "b": normal(8), **norm(8)}), fold_batch_norms).ops == ["Gemm"]


def test_half_precision(check):
    weights = {"w": normal(8, 4, 3, 3, dtype=np.float16), **norm(8, np.float16)}
    text = (CONV % BN).replace("float[", "float16[")
    changed = check(build(text, weights), fold_batch_norms)
    assert changed.ops == ["Conv"]
    assert constant(changed.model.graph[0].inputs[2]).dtype == np.float16


def test_a_result_that_half_cannot_hold_is_not_stored():
    weights = {"w": np.full((8, 4, 3, 3), 1e4, np.float16), **norm(8, np.float16)}
    weights["g"][:] = 100
    model = load(build((CONV % BN).replace("float[", "float16["), weights))
    assert fold_batch_norms(model) == 0
    np.testing.assert_array_equal(constant(model.graph.initializers["w"]), weights["w"])


@pytest.mark.parametrize(
    "nodes",
    [
        f"{BN} z = Relu (c)",
        "y = BatchNormalization (c, g, o, m, v2) v2 = Abs (k)",
        "n = BatchNormalization <training_mode = 1> (c, g, o, m, v) y = Relu (n)",
        "y = BatchNormalization (c, g, o, m, minus)",
    ],
)
def test_batch_norms_that_must_stay(nodes):
    if "v2 =" in nodes:
        nodes = "v2 = Abs (x8) y = BatchNormalization (c, g, o, m, v2)"
    text = (CONV % nodes).replace("6] x)", "6] x, float[8] x8)")
    weights = {"w": normal(8, 4, 3, 3), **norm(8), "minus": np.full(8, -1, np.float32)}
    assert fold_batch_norms(load(build(text, weights))) == 0


def test_a_result_in_between_that_is_an_output_stays(check):
    text = (CONV % BN).replace("d] y)", "d] y, float[a, b, c, d] c)")
    assert check(build(text, {"w": normal(8, 4, 3, 3), **norm(8)}), fold_batch_norms).count == 0


def test_a_training_norm_of_old_opsets_stays():
    text = CONV % "y, mean, var, sm, sv = BatchNormalization (c, g, o, m, v)"
    assert fold_batch_norms(load(build(text, {"w": normal(8, 4, 3, 3), **norm(8)}, opset=9))) == 0


def test_a_shared_weight_is_copied(check):
    text = """g (float[2, 4, 6, 6] x) => (float[a, b, c, d] y, float[a, b, c, d] z, float[a, b, c, d] t) {
        c1 = Conv (x, w, b) y = BatchNormalization (c1, g, o, m, v) c2 = Conv (x, w, b)
        z = BatchNormalization (c2, o, g, m, v) t = Conv (x, w, b) }"""
    weights = {"w": normal(8, 4, 3, 3), "b": normal(8), **norm(8)}
    changed = check(build(text, weights), fold_batch_norms)
    assert (changed.count, changed.ops) == (2, ["Conv"] * 3)
    np.testing.assert_array_equal(constant(changed.model.graph.initializers["w"]), weights["w"])


def test_a_weight_of_one_reader_keeps_its_name():
    model = load(build(CONV % BN, {"w": normal(8, 4, 3, 3), **norm(8)}))
    fold_batch_norms(model)
    assert model.graph[0].inputs[1].name == "w"


def test_bodies_are_folded_but_never_across_their_border(check):
    text = """g (bool p, float[2, 4, 6, 6] x) => (float[a, b, c, d] y) { c = Conv (x, w)
        y = If (p) <then_branch = t () => (float[a, b, c, d] u) { u = BatchNormalization (c, g, o, m, v) },
                    else_branch = e () => (float[a, b, c, d] r) {
                        d = Conv (x, w) r = BatchNormalization (d, g, o, m, v) }> }"""
    changed = check(build(text, {"w": normal(8, 4, 3, 3), **norm(8)}), fold_batch_norms, samples=6)
    assert (changed.count, changed.ops) == (1, ["Conv", "If", "BatchNormalization", "Conv"])


@pytest.mark.parametrize("shape", [(8, 1, 1), (1, 8, 1, 1), (), (1,), (1, 1, 1, 1), (1, 1, 1)])
@pytest.mark.parametrize(
    "node", ["Add (c, k)", "Add (k, c)", "Sub (c, k)", "Sub (k, c)", "Mul (c, k)", "Mul (k, c)", "Div (c, k)"]
)
def test_arithmetic_by_constants_folds_into_conv(check, node, shape):
    weights = {"w": normal(8, 4, 3, 3), "k": np.asarray(RNG.uniform(0.5, 2, shape), np.float32)}
    changed = check(build(CONV % f"y = {node}", weights), fold_channel_arithmetic, samples=1)
    assert (changed.count, changed.ops) == (1, ["Conv"])


@pytest.mark.parametrize("shape", [(4,), (1, 1, 4), (1, 8, 1, 4), (2, 1, 1, 1), (1, 1, 8, 1, 1)])
def test_constants_that_differ_along_other_axes_stay(check, shape):
    names = ", ".join("abcde"[: max(4, len(shape))])
    text = f"g (float[2, 4, 6, 6] x) => (float[{names}] y) {{ c = Conv <kernel_shape = [3, 3]> (x, w) y = Add (c, k) }}"
    assert check(build(text, {"w": normal(8, 4, 3, 3), "k": normal(*shape)}), fold_channel_arithmetic).count == 0


@pytest.mark.parametrize("nodes", ["y = Div (k, c)", "y = Div (c, zero)", "y = Mul (c, c)", "y = Add (c, x1)"])
def test_what_is_not_affine_or_not_constant_stays(nodes):
    text = (CONV % nodes).replace("6] x)", "6] x, float[1] x1)")
    weights = {"w": normal(8, 4, 3, 3), "k": np.float32([2]), "zero": np.float32([0])}
    assert fold_channel_arithmetic(load(build(text, weights))) == 0


def test_a_narrow_conv_is_not_widened(check):
    weights = {"w": normal(1, 4, 3, 3), "k": normal(8, 1, 1)}
    assert check(build(CONV % "y = Add (c, k)", weights), fold_channel_arithmetic).count == 0


@pytest.mark.parametrize("shape", [(8,), (1, 8), (1,), ()])
def test_a_gemm_takes_rows(check, shape):
    text = "g (float[5, 3] x) => (float[a, b] y) { c = Gemm (x, w) y = Add (k, c) }"
    assert check(build(text, {"w": normal(3, 8), "k": normal(*shape)}), fold_channel_arithmetic).ops == ["Gemm"]


@pytest.mark.parametrize("shape", [(5, 1), (5, 8), (1, 1, 8)])
def test_a_gemm_leaves_columns(check, shape):
    out = "a, b, c" if len(shape) > 2 else "a, b"
    text = f"g (float[5, 3] x) => (float[{out}] y) {{ c = Gemm (x, w) y = Add (k, c) }}"
    assert check(build(text, {"w": normal(3, 8), "k": normal(*shape)}), fold_channel_arithmetic).count == 0


def test_a_gemm_whose_bias_differs_by_row_is_left(check):
    text = "g (float[5, 3] x) => (float[a, b] y) { c = Gemm (x, w, b) y = Mul (k, c) }"
    proto = build(text, {"w": normal(3, 8), "b": normal(5, 1), "k": normal(8)})
    assert check(proto, fold_channel_arithmetic).count == 0
    proto = build(text.replace("Gemm (", "Gemm <beta = 0.5> ("), {"w": normal(3, 8), "b": normal(8), "k": normal(8)})
    assert check(proto, fold_channel_arithmetic).count == 0


def test_a_chain_folds_in_one_pass(check):
    nodes = f"{BN.replace('y =', 'n =')} s = Mul (n, k) t = Add (s, k) u = Sub (k, t) y = Relu (u)"
    weights = {"w": normal(8, 4, 3, 3), "k": normal(8, 1, 1), **norm(8)}
    changed = check(
        build(CONV % nodes, weights), lambda model: fold_batch_norms(model) + fold_channel_arithmetic(model)
    )
    assert (changed.count, changed.ops) == (4, ["Conv", "Relu"])


def test_a_weight_without_numbers_is_left(check):
    weights = {"w": normal(0, 4, 3, 3), "k": np.float32([2])}
    assert check(build(CONV % "y = Mul (c, k)", weights), fold_channel_arithmetic).count == 0


def test_a_weight_that_is_computed_or_dequantized_is_left():
    nodes = "d = DequantizeLinear (q, s, z) c = Conv (x, d) y = Mul (c, k)"
    weights = {"q": np.ones((8, 4, 3, 3), np.int8), "s": np.float32(0.1), "z": np.int8(0), "k": np.float32([2])}
    text = f"g (float[2, 4, 6, 6] x) => (float[a, b, c, d] y) {{ {nodes} }}"
    model = load(build(text, weights))
    assert fold_constants(model) + fold_channel_arithmetic(model) == 0


@given(
    shape=st.lists(st.sampled_from([1, 2, 3]), max_size=5).map(tuple),
    rank=st.integers(2, 4),
    channels=st.sampled_from([1, 2, 3]),
)
def test_a_vector_is_found_exactly_where_broadcasting_is_per_channel(shape, rank, channels):
    numbers = np.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    vector = per_channel(numbers, Layout(rank=rank, axis=1, channels=channels))
    tensor = np.ones((5, channels, *[7] * (rank - 2)))
    if vector is not None:
        aligned = vector.reshape(1, channels, *[1] * (rank - 2))
        np.testing.assert_array_equal(tensor * numbers, tensor * aligned)
        assert (tensor * numbers).shape == tensor.shape


def test_bfloat16_weights_are_folded_in_their_own_type():
    model = load(build(CONV % BN, {"w": normal(8, 4, 3, 3), **norm(8)}))
    expected = load(build(CONV % BN, {"w": normal(8, 4, 3, 3), **norm(8)}))
    bfloat16 = ir.DataType.BFLOAT16
    for name, value in model.graph.initializers.items():
        numbers = constant(value).astype(bfloat16.numpy())
        value.const_value, value.type = ir.Tensor(numbers, name=name), ir.TensorType(bfloat16)
        expected.graph.initializers[name].const_value = ir.Tensor(numbers.astype(np.float32), name=name)
    assert (fold_batch_norms(model), fold_batch_norms(expected)) == (1, 1)
    for found, exact in zip(model.graph[0].inputs[1:], expected.graph[0].inputs[1:], strict=True):
        assert found.const_value.dtype == bfloat16
        np.testing.assert_allclose(constant(found).astype(np.float32), constant(exact), rtol=2**-8)
