"""Constants become initializers, and nothing else does."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

from models.build import build
from vqonnx.graph.io import load, save
from vqonnx.graph.walk import constant
from vqonnx.transforms.constants import drop_constant_inputs, fold_constants, lift_constants, lift_initializers

W = np.arange(12, dtype=np.float32).reshape(3, 4) - 5


def initializer(model, name):
    return model.graph.initializers[name].const_value


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 21])
@pytest.mark.parametrize(
    "node",
    [
        "w2 = Identity (w)",
        "w2 = Transpose (w)",
        "w2 = Transpose <perm = [0, 1]> (w)",
        "w2 = Reshape (w, shape)",
        "w2 = Flatten <axis = 0> (w)",
        "w2 = Mul (w, s)",
        "w2 = Div (w, s)",
        "w2 = Add (s, w)",
        "w2 = Sub (s, w)",
        "w2 = Concat <axis = 1> (w, w)",
        "w2 = Cast <to = 11> (w)",
        "w2 = Cast <to = 10> (w)",
    ],
)
def test_a_folded_operator_equals_onnx_runtime(check, node, opset):
    weights = {"w": W, "s": np.float32([3]), "shape": np.int64([2, -1])}
    text = (
        f"g (float[1] x) => (float[1] n, double[a, b] y) "
        f"{{ n = Identity (x) {node} c = Cast <to = 11> (w2) y = Identity (c) }}"
    )
    changed = check(build(text, weights, opset=opset), fold_constants, samples=1)
    assert "w2" not in {output.name for node in changed.model.graph for output in node.outputs}
    assert changed.ops == ["Identity", "Identity"]


def test_squeeze_and_unsqueeze_fold_in_both_ways_of_giving_axes(check):
    old = (
        "g (float[4] x) => (float[a, b, c, d] y) "
        "{ u = Unsqueeze <axes = [0, -1]> (w) s = Squeeze <axes = [0]> (u) y = Add (x, u) z = Relu (s) }"
    )
    new = (
        "g (float[4] x) => (float[a, b, c, d] y) { u = Unsqueeze (w, ax) s = Squeeze (u) t = Relu (s) y = Add (x, u) }"
    )
    old_changed = check(build(old, {"w": W}, opset=11), fold_constants)
    assert (old_changed.count, initializer(old_changed.model, "s").shape) == (2, ir.Shape([3, 4, 1]))
    new_changed = check(build(new, {"w": W, "ax": np.int64([0, -1])}), fold_constants)
    assert (new_changed.count, initializer(new_changed.model, "s").shape) == (2, ir.Shape([3, 4]))


@given(
    shape=st.lists(st.integers(0, 3), min_size=1, max_size=3),
    wanted=st.lists(st.sampled_from([-1, 0, 1, 2, 3, 4, 6]), min_size=1, max_size=4),
    allowzero=st.integers(0, 1),
)
def test_reshape_folds_to_what_the_reference_says_or_not_at_all(shape, wanted, allowzero):
    text = (
        f"g (float x) => (float y) "
        f"{{ r = Reshape <allowzero = {allowzero}> (w, s) f = Identity (r) y = Relu (x) z = Relu (f) }}"
    )
    w = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    model = load(build(text, {"w": w, "s": np.int64(wanted)}))
    fold_constants(model)
    found = constant(model.graph.initializers.get("r"))
    if found is None:
        return
    node = helper.make_node("Reshape", ["w", "s"], ["r"], allowzero=allowzero)
    (expected,) = ReferenceEvaluator(node).run(None, {"w": w, "s": np.int64(wanted)})
    np.testing.assert_array_equal(found, expected)


def test_every_kind_of_constant_node_becomes_an_initializer_of_its_name(check):
    text = """g (float[2] x) => (float[2] y, int64[2] k) {
        a = Constant <value_float = 2.5> ()  b = Constant <value_floats = [1.0, 2.0]> ()
        i = Constant <value_int = 3> ()      j = Constant <value_ints = [4, 5]> ()
        t = Constant <value = float[2] {7, 8}> ()
        u = Mul (x, a) v = Add (u, b) y = Add (v, t) ii = Add (i, j) k = Identity (ii) }"""
    changed = check(build(text), fold_constants)
    assert changed.count == 6
    assert {"a", "b", "t", "ii"} <= set(changed.model.graph.initializers)
    assert changed.ops == ["Mul", "Add", "Add", "Identity"]


def test_half_and_bfloat16_weights_are_cast_to_float(check):
    half = W.astype(np.float16)
    changed = check(
        build("g (float[2, 3] x) => (float[2, 4] y) { f = Cast <to = 1> (w) y = MatMul (x, f) }", {"w": half}),
        fold_constants,
    )
    np.testing.assert_array_equal(initializer(changed.model, "f").numpy(), W)
    proto = build("g (float[2, 3] x) => (float[2, 4] y) { f = Cast <to = 1> (w) y = MatMul (x, f) }", {"w": half})
    bfloat = ir.Tensor(W.astype(ir.DataType.BFLOAT16.numpy()), name="w")
    proto.graph.initializer[0].CopyFrom(ir.serde.serialize_tensor(bfloat))
    changed = check(proto, fold_constants)
    np.testing.assert_array_equal(initializer(changed.model, "f").numpy(), W)


def test_a_producer_that_others_read_stays_for_them(check):
    text = (
        "g (float[2, 3] x) => (float[2, 4] y, float[3, 4] w2) "
        "{ w2 = Identity (w) w3 = Mul (w2, w2) y = MatMul (x, w3) }"
    )
    changed = check(build(text, {"w": W}), fold_constants)
    assert changed.count == 0, "w2 is a graph output, and so not an initializer to compute from"
    text = (
        "g (float[2, 3] x, float[4] b) => (float[2, 4] y, float[3, 4] z) "
        "{ t = Mul (w, w) y = MatMul (x, t) z = Add (w, b) }"
    )
    changed = check(build(text, {"w": W}), fold_constants)
    assert changed.ops == ["MatMul", "Add"]
    np.testing.assert_array_equal(initializer(changed.model, "w").numpy(), W)


def test_bodies_are_folded_and_read_outer_constants(check):
    text = """g (bool c, float[2, 3] x) => (float[2, 4] y) {
        outer = Transpose (w)
        y = If (c) <then_branch = t () => (float[2, 4] a) { k = Constant <value_float = 2.0> () wt = Transpose (outer)
                       w2 = Mul (wt, k) a = MatMul (x, w2) },
                    else_branch = e () => (float[2, 4] b) { wt = Transpose (outer) b = MatMul (x, wt) }> }"""
    changed = check(build(text, {"w": W}), fold_constants, samples=4)
    assert changed.ops == ["If", "MatMul", "MatMul"]
    assert lift_initializers(changed.model) > 0
    assert all(not body.initializers for body in changed.model.graph.subgraphs())


@pytest.mark.parametrize(
    "node",
    [
        "w2 = ConstantOfShape (big)",
        "w2 = Cast <to = 7> (w)",
        "w2 = Div (i, i)",
        "w2 = Mul (column, row)",
        "w2 = Mul (w, x)",
        "w2 = DequantizeLinear (q, w0, z)",
    ],
)
def test_what_is_huge_unsure_or_quantized_is_not_folded(node):
    weights = {
        "big": np.int64([1 << 20, 1 << 20]),
        "w": W,
        "w0": np.float32(0.5),
        "i": np.int64([7]),
        "q": np.int8([[1, 2]]),
        "z": np.int8(1),
        "column": np.ones((4096, 1), np.float32),
        "row": np.ones((1, 4096), np.float32),
    }
    text = f"g (float[4] x) => (float[4] y) {{ {node} y = Relu (x) z2 = Identity (w2) }}"
    model = load(build(text, weights))
    assert fold_constants(model) == 0


def test_an_input_with_a_default_is_not_a_constant_until_dropped(check):
    proto = build(
        "g (float[2, 3] x, float[3, 4] w) => (float[2, 4] y) { t = Identity (w) y = MatMul (x, t) }", {"w": W}
    )
    assert check(proto, fold_constants).count == 0
    model = load(proto)
    assert drop_constant_inputs(model) == 1
    assert [value.name for value in model.graph.inputs] == ["x"]
    assert fold_constants(model) == 1


def test_requantize_folds_every_granularity(check):
    q = np.arange(-12, 12, dtype=np.int8).reshape(6, 4)
    weights = {"q": q, "s": np.float32([0.5]), "sa": np.float32([1, 2, 3, 4, 5, 6]), "za": np.int8([1, -2, 3, 0, 5, 6])}
    text = """g (float[2, 6] x) => (float[2, 4] y, float[2, 4] z) {
        a = DequantizeLinear (q, s1) b = DequantizeLinear <axis = 0> (q, sa, za)
        y = MatMul (x, a) z = MatMul (x, b) }"""
    weights["s1"] = np.float32(0.5)
    changed = check(build(text, weights), lambda model: fold_constants(model, requantize=True))
    assert changed.ops == ["MatMul", "MatMul"]
    text = (
        "g (float[2, 6] x) => (float[2, 4] y) "
        "{ a = DequantizeLinear <axis = 0, block_size = 4> (q, sb, zb) y = MatMul (x, a) }"
    )
    blocks = {"q": q, "sb": np.float32([[1, 2, 3, 4], [5, 6, 7, 8]]), "zb": np.int8([[0, 1, 0, 1], [2, 0, 2, 0]])}
    changed = check(build(text, blocks, opset=21), lambda model: fold_constants(model, requantize=True))
    assert changed.ops == ["MatMul"]


@pytest.mark.parametrize("output", [{}, {"output_dtype": 1}, {"output_dtype": 10}])
def test_requantize_gives_the_type_that_is_asked_for(output):
    node = helper.make_node("DequantizeLinear", ["q", "s"], ["d"], axis=0, **output)
    out = helper.make_tensor_value_info("d", output.get("output_dtype", 10), None)
    graph = helper.make_graph([node, helper.make_node("Identity", ["d"], ["y"])], "g", [], [])
    out.name = "y"
    graph.output.append(out)
    arrays = {"q": np.arange(-12, 12, dtype=np.int16).reshape(6, 4), "s": np.float16([1, 2, 0.1, 4, 5, 6])}
    graph.initializer.extend(
        helper.make_tensor(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape, v.tobytes(), raw=True)
        for k, v in arrays.items()
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)
    (expected,) = ReferenceEvaluator(proto).run(None, {})
    model = load(proto)
    assert fold_constants(model, requantize=True) == 1
    found = constant(model.graph[0].inputs[0])
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_large_constant_nodes_become_initializers_without_being_read(check):
    numbers = ", ".join(["0.5"] * 300)
    text = f"""g (float[2, 300] x, bool c) => (float[2, 300] y, float[300] w) {{
        u = Constant <value_floats = [{numbers}]> ()
        w = Constant <value_floats = [{numbers}]> ()
        s = Constant <value_float = 2.0> ()
        a = Mul (x, u)
        y = If (c) <
            then_branch = t () => (float[2, 300] p) {{
                v = Constant <value = float[300] {{{numbers}}}> ()
                p = Mul (a, v)
            }},
            else_branch = e () => (float[2, 300] q) {{ q = Mul (a, s) }}>
    }}"""
    changed = check(build(text), lift_constants, samples=4)
    assert changed.count == 2
    assert changed.ops == ["Constant", "Constant", "Mul", "If", "Mul", "Mul"]
    assert list(changed.model.graph.initializers) == ["u"]
    assert lift_constants(changed.model) == 0


def test_a_new_shape_of_a_mapped_weight_stays_mapped(tmp_path):
    weight = np.random.default_rng(0).normal(size=(512, 64)).astype(np.float32)
    text = (
        "g (float[2, 64] x) => (float[2, 512] y) "
        "{ r = Reshape (w, s) t = Transpose (r) y = MatMul (x, t) z = Relu (r) }"
    )
    save(load(build(text, {"w": weight, "s": np.int64([512, 64])})), tmp_path / "m.onnx", external=True)
    model = load(tmp_path / "m.onnx")
    assert isinstance(initializer(model, "w"), ir.ExternalTensor)
    assert fold_constants(model) == 2
    assert isinstance(initializer(model, "r"), ir.ExternalTensor)
    np.testing.assert_array_equal(initializer(model, "t").numpy(), weight.T)


def test_large_results_are_computed_at_each_use(monkeypatch, check):
    monkeypatch.setattr("vqonnx.transforms.constants.LAZY_ABOVE", 16)
    text = "g (float[2, 4] x) => (float[2, 3] y) { t = Transpose (w) y = MatMul (x, t) }"
    changed = check(build(text, {"w": W}), fold_constants)
    assert isinstance(initializer(changed.model, "t"), ir.LazyTensor)


def test_zero_size_and_string_constants_are_safe(check):
    weights = {"w": np.zeros((0, 4), np.float32)}
    check(build("g (float[2, 0] x) => (float[2, 4] y) { t = Identity (w) y = MatMul (x, t) }", weights), fold_constants)
    proto = build(
        "g (float[2] x) => (float[2] y, string s) "
        '{ t = Constant <value_string = "ä"> () s = Identity (t) y = Relu (x) }'
    )
    assert check(proto, fold_constants).count == 0


def test_folding_twice_changes_nothing():
    model = load(build("g (float[2, 4] x) => (float[2, 3] y) { t = Transpose (w) y = MatMul (x, t) }", {"w": W}))
    assert (fold_constants(model), fold_constants(model)) == (1, 0)
