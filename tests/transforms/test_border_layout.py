"""Inputs and outputs change their layout, and what the model computes does not."""

import numpy as np
import pytest

from models.build import Weights, build
from vqonnx.errors import OptionError
from vqonnx.graph.io import load
from vqonnx.graph.proto import to_proto
from vqonnx.graph.walk import nodes
from vqonnx.runtime.session import open_session
from vqonnx.transforms.border_layout import channels_first_at_border, channels_last_at_border

CONV = "g (float[N, 3, H, 6] x) => (float[N, 4, a, 6] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w, b) }"
TF = """
g (float[N, H, 6, 3] x) => (float[N, H, 6, 4] y) {
  t = Transpose <perm = [0, 3, 1, 2]> (x)
  c = Conv <pads = [1, 1, 1, 1]> (t, w, b)
  y = Transpose <perm = [0, 2, 3, 1]> (c)
}
"""


def conv(text=CONV):
    weights = Weights(0)
    weights.normal("w", 4, 3, 3, 3)
    weights.bias("b", 4)
    return build(text, weights.arrays)


def run(model, feeds):
    session = open_session(model, optimize=False)
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feeds), strict=True))


def moved(array, to_last):
    return np.moveaxis(array, 1, -1) if to_last else np.moveaxis(array, -1, 1)


def turned_equal(proto, step, to_last, names=None, shape=(2, 3, 5, 6)):
    """The model after ``step``, checked on its own and against the one before with axes moved by hand."""
    model, x = load(proto), np.random.default_rng(0).normal(size=shape).astype(np.float32)
    before = run(load(proto), {"x": x})
    count = step(model, names)
    turned = [value.name for value in (*model.graph.inputs, *model.graph.outputs)] if names is None else names
    after = run(model, {"x": moved(x, to_last) if "x" in turned else x})
    assert list(after) == list(before)
    for name, expected in before.items():
        wanted = moved(expected, to_last) if name in turned else expected
        np.testing.assert_allclose(after[name], wanted, rtol=1e-5, atol=1e-5)
        shape = next(output.shape for output in model.graph.outputs if output.name == name)
        fixed = [(d, s) for d, s in zip(shape, wanted.shape, strict=True) if isinstance(d, int)]
        assert all(d == s for d, s in fixed)
        assert len(fixed) == 2
    load(to_proto(model))
    return count, [node.op_type for node in nodes(model)]


def test_channels_go_last(check):
    count, ops = turned_equal(conv(), channels_last_at_border, True)
    assert (count, ops) == (2, ["Transpose", "Conv", "Transpose"])


@pytest.mark.parametrize("name", ["x", "y"])
def test_only_what_is_named(name):
    count, ops = turned_equal(conv(), channels_last_at_border, True, [name])
    assert (count, sorted(ops)) == (1, ["Conv", "Transpose"])


def test_transposes_that_undo_each_other_go():
    count, ops = turned_equal(conv(TF), channels_first_at_border, False, shape=(2, 5, 6, 3))
    assert (count, ops) == (2, ["Conv"])


def test_there_and_back_is_the_same():
    model = load(conv())
    assert channels_last_at_border(model) == channels_first_at_border(model) == 2
    assert [node.op_type for node in nodes(model)] == ["Conv"]
    assert [str(value.shape) for value in (*model.graph.inputs, *model.graph.outputs)] == ["[N,3,H,6]", "[N,4,a,6]"]


@pytest.mark.parametrize("tail", ["z = Relu (y)", "z = Identity (x2)", "z = Add (y, y)"])
def test_an_output_that_is_read_inside(tail):
    text = f"""
    g (float[N, 3, H, 6] x) => (float[N, 4, a, 6] y, float[N, 4, a, 6] z) {{
      y = Conv <pads = [1, 1, 1, 1]> (x, w, b)
      x2 = Neg (y)
      {tail}
    }}
    """
    turned_equal(conv(text), channels_last_at_border, True)
    count, _ = turned_equal(conv(text), channels_last_at_border, True, ["y"])
    assert count == 1


def test_a_transpose_that_is_read_inside_too_stays():
    text = TF.replace("=> (float[N, H, 6, 4] y)", "=> (float[N, H, 6, 4] y, float[N, H, 6, 4] z)")
    text = text.rstrip().removesuffix("}") + " z = Relu (y) }"
    count, ops = turned_equal(conv(text), channels_first_at_border, False, shape=(2, 5, 6, 3))
    assert (count, ops) == (3, ["Conv", "Transpose", "Relu", "Transpose"])


def test_an_input_that_a_body_reads():
    text = """
    g (float[1, 3, 2, 2] x, bool c) => (float[1, 3, 2, 2] y) {
      y = If (c) <then_branch = p () => (float[1, 3, 2, 2] i) { i = Relu (x) },
                  else_branch = q () => (float[1, 2, 2, 3] j) { j = Transpose <perm = [0, 2, 3, 1]> (x) }>
    }
    """
    model, x = load(build(text)), np.random.default_rng(0).normal(size=(1, 3, 2, 2)).astype(np.float32)
    expected = run(load(build(text)), {"x": x, "c": np.array(True)})["y"]
    assert channels_last_at_border(model) == 2
    found = run(model, {"x": moved(x, True), "c": np.array(True)})["y"]
    np.testing.assert_array_equal(found, moved(expected, True))


@pytest.mark.parametrize(("rank", "dims"), [(3, "N, 3, L"), (5, "N, 3, 2, H, W")])
def test_other_ranks_when_named(rank, dims):
    proto = build(f"g (float[{dims}] x) => (float[{dims}] y) {{ y = Neg (x) }}")
    model = load(proto)
    assert channels_last_at_border(model) == 0
    assert channels_last_at_border(model, ["x", "y"]) == 2
    feed = np.random.default_rng(0).normal(size=(2, 3, 2, 4, 5)[:rank]).astype(np.float32)
    np.testing.assert_array_equal(run(model, {"x": moved(feed, True)})["y"], moved(-feed, True))


def test_what_passes_through_or_has_a_default_stays():
    proto = build("g (float[1, 2, 3, 4] x) => (float[1, 2, 3, 4] x, float[1, 2, 3, 4] y) { y = Neg (x) }")
    assert channels_last_at_border(load(proto)) == 1
    proto = conv()
    proto.graph.input.add().CopyFrom(proto.graph.output[0])
    proto.graph.input[1].name = "w"
    proto.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 4
    assert channels_last_at_border(load(proto)) == 2


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("xx", r"'xx' is no input or output of the model \(did you mean 'x'.*Name one of x, v, u, y"),
        ("v", r"so 'v' needs to be of rank >= 3; it has rank 2"),
        ("u", r"so 'u' needs to be of rank >= 3; it has an unknown rank"),
    ],
)
def test_names_that_cannot_be_moved(name, match):
    proto = build("g (float[N, 3, H, W] x, float[N, 3] v, float[1] u) => (float[N, 3, H, W] y) { y = Neg (x) }")
    proto.graph.input[2].type.tensor_type.ClearField("shape")
    with pytest.raises(OptionError, match=match) as caught:
        channels_last_at_border(load(proto), [name])
    assert caught.value.option == name
