"""Divisions by the Euclidean length become LpNormalization; outputs stay."""

import numpy as np
import pytest

from models.build import build
from tests.versions import since
from vqonnx.graph.edit import remove_dead
from vqonnx.graph.io import load
from vqonnx.graph.walk import nodes
from vqonnx.runtime.session import open_session
from vqonnx.transforms.fuse_l2_norm import fuse_l2_norms
from vqonnx.transforms.shapes import infer_shapes

_FLOORED = "q = Mul (x, x) s = ReduceSum (q, axes) m = Max ({}) r = Sqrt (m) i = Reciprocal (r)"
FORMS = {
    "torch.norm": "l = ReduceL2 <axes = [1]> (x) y = Div (x, l)",
    "normalize": "l = ReduceL2 <axes = [1]> (x) c = Clip (l, e) s = Shape (x) b = Expand (c, s) y = Div (x, b)",
    "normalize, new exporter": "l = ReduceL2 <axes = [1]> (x) c = Clip (l, e) b = Expand (c, all) y = Div (x, b)",
    "by hand": "q = Pow (x, two) s = ReduceSum (q, axes) r = Sqrt (s) y = Div (x, r)",
    "sum of squares": "s = ReduceSumSquare <axes = [1]> (x) r = Sqrt (s) y = Div (x, r)",
    "rsqrt": "q = Pow (x, two) s = ReduceSum (q, axes) a = Add (s, e) r = Sqrt (a) i = Div (one, r) y = Mul (x, i)",
    "TensorFlow": f"{_FLOORED.format('s, e')} y = Mul (x, i)",
    "TensorFlow, other way": f"{_FLOORED.format('e, s')} y = Mul (i, x)",
    "floor by addition": "l = ReduceL2 <axes = [1]> (x) a = Add (l, e) y = Div (x, a)",
    "floor by maximum": "q = Pow (x, two) s = ReduceSum (q, axes) r = Sqrt (s) m = Max (r, e) y = Div (x, m)",
    "floor of the sum": "q = Pow (x, two) s = ReduceSum (q, axes) c = Clip (s, e) r = Sqrt (c) y = Div (x, r)",
}


def l2(form, *, opset=17, dtype="float", dims="2, 3, 4", epsilon=1e-12, more="", **arrays):
    numpy = {"float": np.float32, "float16": np.float16, "double": np.float64}[dtype]
    numbers = {"two": numpy(2), "one": numpy(1), "e": numpy(epsilon)}
    constants = {**numbers, "axes": np.int64([1]), "all": np.int64([2, 3, 4]), **arrays}
    text = FORMS.get(form, form)
    return build(f"g ({dtype}[{dims}] x) => ({dtype}[{dims}] y{more}) {{ {text} }}", constants, opset=opset)


def step(model):
    infer_shapes(model)
    count = fuse_l2_norms(model)
    remove_dead(model)
    return count


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float", "double"])
def test_every_form(check, form, dtype):
    changed = check(l2(form, dtype=dtype), step)
    assert (changed.count, changed.ops) == (1, ["LpNormalization"])
    node = changed.model.graph[0]
    assert (node.attributes.get_int("axis"), node.attributes.get_int("p")) == (1, 2)


@pytest.mark.parametrize("form", [form for form in FORMS if "new" not in form])
def test_dynamic_sizes(check, form):
    assert check(l2(form, dims="N, C, L"), step).ops == ["LpNormalization"]


def test_half_precision(check):
    assert check(l2("by hand", dtype="float16"), step).ops == ["LpNormalization"]


@pytest.mark.parametrize("opset", [7, 11, 13, 18, 22])
def test_every_opset(check, opset):
    if opset == 22:
        since("1.25", "LpNormalization of opset 22")
    length = "ReduceL2 <axes = [-2]> (x)" if opset < 18 else "ReduceL2 (x, axes)"
    assert check(l2(f"l = {length} y = Div (x, l)", opset=opset), step).count == 1


def test_clips_by_attribute(check):
    assert (
        check(l2("l = ReduceL2 <axes = [1]> (x) c = Clip <min = 1e-12> (l) y = Div (x, c)", opset=10), step).count == 1
    )


def test_zero_and_tiny_vectors():
    """What the floor decided: a vector shorter than it keeps a length below 1, or becomes a unit vector now."""
    x = np.zeros((2, 3, 4), np.float32)
    x[1] = 1e-15
    model, proto = load(l2("normalize")), l2("normalize")
    (before,) = open_session(load(proto)).run(None, {"x": x})
    assert step(model) == 1
    (after,) = open_session(model).run(None, {"x": x})
    np.testing.assert_array_equal(after[0], before[0])
    np.testing.assert_array_equal(after[0], 0)
    assert np.abs(before[1]).max() < 0.01
    np.testing.assert_allclose(np.linalg.norm(after[1], axis=0), 1, rtol=1e-5)


@pytest.mark.parametrize(
    "proto",
    [
        l2("normalize", epsilon=1e-4),  # a floor that shows
        l2("rsqrt", epsilon=1e-6),
        l2("rsqrt", epsilon=-1e-12),
        l2("l = ReduceL2 <axes = [1]> (x) c = Clip (l, e, one) y = Div (x, c)"),
        l2("l = ReduceL2 <axes = [1, 2]> (x) y = Div (x, l)"),
        l2("l = ReduceL2 (x) y = Div (x, l)"),
        l2("l = ReduceL2 <axes = [0], keepdims = 0> (x) y = Div (x, l)", dims="3, 3, 3"),
        l2("l = ReduceL1 <axes = [1]> (x) y = Div (x, l)"),
        l2("l = ReduceL2 <axes = [1]> (x) y = Div (l, x)"),
        l2("n = Neg (x) l = ReduceL2 <axes = [1]> (n) y = Div (x, l)"),
        l2("l = ReduceL2 <axes = [1]> (x) y = Div (x, l)", more=", float[2, 1, 4] l"),
        l2("l = ReduceL2 <axes = [1]> (x) b = Expand (l, big) y = Div (x, b)", dims="1, 3, 1", big=np.int64([1, 3, 1])),
        l2("l = ReduceL2 <axes = [1]> (x) c = Add (l, row) y = Div (x, c)", row=np.float32([1e-12] * 4)),
        l2("q = Pow (x, three) s = ReduceSum (q, axes) r = Sqrt (s) y = Div (x, r)", three=np.float32(3)),
    ],
)
def test_what_is_no_length_stays(proto):
    model = load(proto)
    before = len(list(nodes(model)))
    if "big" in {tensor.name for tensor in proto.graph.initializer}:
        model.graph.inputs[0].shape = None
    assert step(model) == 0
    assert len(list(nodes(model))) == before
