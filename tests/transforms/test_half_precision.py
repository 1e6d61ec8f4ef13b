"""Half precision becomes single precision, everywhere, and outputs move by a rounding of half precision."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.build import Weights, build
from models.precision import half, half_inside
from vqonnx.errors import UnsupportedModelError
from vqonnx.graph.io import load
from vqonnx.graph.proto import to_proto
from vqonnx.graph.walk import nodes, values
from vqonnx.runtime.session import open_session
from vqonnx.transforms.constants import LAZY_ABOVE
from vqonnx.transforms.half_precision import HALVES, half_to_float

TYPES = {ir.DataType.FLOAT: np.float32, ir.DataType.FLOAT16: np.float16, ir.DataType.BFLOAT16: ml_dtypes.bfloat16}


def fetch(model, feeds):
    fed = {value.name: feeds[value.name] for value in model.graph.inputs if value.name in feeds}
    cast = {
        v.name: fed[v.name].astype(TYPES.get(v.dtype, v.dtype.numpy())) for v in model.graph.inputs if v.name in fed
    }
    session = open_session(model, threads=1, optimize=False)
    return [np.asarray(one) for one in session.run(None, cast)]


def widened(proto, feeds, *, keep_border=False):
    """The model after the pass; its outputs are near the old ones, and it is valid."""
    model = load(proto)
    before = fetch(load(proto), feeds)
    count = half_to_float(model, keep_border=keep_border)
    assert count > 0
    for old, new in zip(before, fetch(model, feeds), strict=True):
        spread = float(np.abs(old.astype(np.float64)).max())
        np.testing.assert_allclose(new.astype(np.float64), old.astype(np.float64), rtol=1e-2, atol=5e-3 * spread)
    onnx.checker.check_model(to_proto(model), full_check=True)
    return model


def image(rng):
    return {"x": rng.normal(size=(2, 3, 8, 8)).astype(np.float32)}


def is_free_of_half(model):
    types = [value.dtype for value in values(model)]
    casts = [node.attributes.get_int("to") for node in nodes(model) if node.op_type == "Cast"]
    return not HALVES & set(types) and not {*map(int, HALVES)} & set(casts)


def test_the_whole_model(rng):
    model = widened(half(), image(rng))
    assert is_free_of_half(model)
    assert {value.dtype for value in (*model.graph.inputs, *model.graph.outputs)} == {ir.DataType.FLOAT}


def test_with_the_border_kept(rng):
    model = widened(half(), image(rng), keep_border=True)
    assert {value.dtype for value in (*model.graph.inputs, *model.graph.outputs)} == {ir.DataType.FLOAT16}
    ops = [node.op_type for node in nodes(model)]
    assert ops == ["Cast", "Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm", "Cast"]


@pytest.mark.parametrize("keep_border", [False, True])
def test_half_between_casts(rng, keep_border):
    model = widened(half_inside(), image(rng), keep_border=keep_border)
    assert is_free_of_half(model)


# The text syntax takes the bits of float16: these are 1.5 and 0.5, and 2 below.
BODIES = """
g (float16[2, 4] x, bool c, int64 n) => (float16[2, 4] y, float16[2, 4] s) {
  k = Constant <value = float16[1] {15872}> ()
  m = Mul (x, k)
  shape = Shape (m)
  z = ConstantOfShape <value = float16[1] {14336}> (shape)
  e = EyeLike <dtype = 10> (m)
  a = Add (m, z)
  d = Add (a, e)
  w = my.twice (d)
  s = Loop (n, , w) <body = loop (int64 i, bool on, float16[2, 4] u) => (bool go, float16[2, 4] v) {
      go = Identity (on)
      f = Cast <to = 1> (u)
      h = Cast <to = 10> (f)
      v = Mul (h, half_b)
  }>
  y = If (c) <then_branch = p () => (float16[2, 4] t) { t = Add (s, bias) },
              else_branch = q () => (float16[2, 4] r) { r = Relu (s) }>
}
"""
TWICE = """<domain: "my", opset_import: ["": 17]>
twice (v) => (r) { t = Constant <value = float16 {16384}> () r = Mul (v, t) }"""


@pytest.mark.parametrize("keep_border", [False, True])
@pytest.mark.parametrize("condition", [False, True])
def test_bodies_functions_and_constants(rng, keep_border, condition):
    weights = {"half_b": np.float16(0.5), "bias": rng.normal(size=4).astype(np.float16)}
    proto = build(BODIES, weights, domains={"my": 1}, functions=TWICE)
    feeds = {"x": rng.normal(size=(2, 4)).astype(np.float32), "c": np.array(condition), "n": np.array(2)}
    model = widened(proto, feeds, keep_border=keep_border)
    inside = set(values(model)) - {*model.graph.inputs, *model.graph.outputs}
    assert not any(value.dtype in HALVES for value in inside)
    assert is_free_of_half(model) != keep_border


SEQUENCE = """
g (float16[4, 3] x) => (float16[2, 3] y) {
  e = SequenceEmpty <dtype = 10> ()
  a, b = Split (x)
  s = SequenceInsert (e, a)
  t = SequenceInsert (s, b)
  zero = Constant <value_int = 0> ()
  y = SequenceAt (t, zero)
}
"""


def test_sequences_inside(rng):
    proto = build(SEQUENCE)
    proto.graph.value_info.append(onnx.helper.make_tensor_sequence_value_info("s", 10, None))
    model = widened(proto, {"x": rng.normal(size=(4, 3))}, keep_border=True)
    assert next(value for value in values(model) if value.name == "s").dtype == ir.DataType.FLOAT


def test_a_sequence_at_the_border():
    proto = build("g (float16[4, 3] x) => (seq(float16[2, 3]) y) { y = SplitToSequence (x) }")
    with pytest.raises(UnsupportedModelError, match=r"cannot keep 'y' as it is: its type is Sequence"):
        half_to_float(load(proto), keep_border=True)
    model = load(proto)
    assert half_to_float(model) == 2
    assert {value.dtype for value in (*model.graph.inputs, *model.graph.outputs)} == {ir.DataType.FLOAT}


def test_bfloat16(rng):
    numbers = rng.normal(size=(3, 2)).astype(np.float32).astype(ml_dtypes.bfloat16)
    text = "g (float[N, 3] x) => (float[N, 2] y) { h = Cast <to = 16> (x) m = MatMul (h, w) y = Cast <to = 1> (m) }"
    model, x = load(build(text, {"w": numbers})), rng.normal(size=(4, 3)).astype(np.float32)
    assert half_to_float(model) > 0
    (found,) = fetch(model, {"x": x})
    np.testing.assert_allclose(found, x @ numbers.astype(np.float32), rtol=1e-5, atol=1e-6)


def test_values_that_nothing_computes_keep_their_type_at_the_border(rng):
    signature = "(float16[N, 3] x, float16[3] b) => (float16[N, 3] x, float16[3] w, float16[N, 3] y)"
    text = f"g {signature} {{ a = Add (x, b) y = Add (a, w) }}"
    proto = build(text, {"w": np.ones(3, np.float16)})
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.full(3, 2, np.float16), "b"))
    feeds = {"x": rng.normal(size=(4, 3)).astype(np.float16)}
    model = widened(proto, feeds, keep_border=True)
    assert [output.dtype for output in model.graph.outputs] == [ir.DataType.FLOAT16] * 3
    model = widened(proto, feeds)
    assert [output.dtype for output in model.graph.outputs] == [ir.DataType.FLOAT] * 3


def test_large_tensors_are_converted_when_read():
    rows = LAZY_ABOVE // 2 // 1024 + 1
    numbers = np.resize(np.arange(2048).astype(np.float16), (rows, 1024))
    model = load(build("g (float16[N, R] x) => (float16[N, C] y) { y = MatMul (x, w) }", {"w": numbers}))
    assert half_to_float(model) == 3
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.LazyTensor)
    np.testing.assert_array_equal(tensor.numpy(), numbers.astype(np.float32))


def test_a_type_that_a_call_gives_is_refused():
    function = '<domain: "my", opset_import: ["": 17]> to <t> (v) => (r) { r = Cast <to: int = @t> (v) }'
    text = "g (float16[2] x) => (float16[2] y) { y = my.to <t = 10> (x) }"
    with pytest.raises(UnsupportedModelError, match=r"'to' of its node .* is given by each call"):
        half_to_float(load(build(text, domains={"my": 1}, functions=function)))


def test_models_without_half_are_left():
    weights = Weights(0)
    weights.normal("w", 3, 2)
    proto = build("g (float[N, 3] x) => (float[N, 2] y) { y = MatMul (x, w) }", weights.arrays)
    model = load(proto)
    assert half_to_float(model, keep_border=True) == 0
    assert [node.op_type for node in nodes(model)] == ["MatMul"]
