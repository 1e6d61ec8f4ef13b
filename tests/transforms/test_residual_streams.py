"""Which tensors may be scaled together, and that scaling them changes no output."""

import numpy as np
import pytest

from models.build import Weights, build
from vqonnx.graph.io import load
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import nodes_by_name
from vqonnx.runtime.session import add_outputs, open_session
from vqonnx.transforms.residual_streams import residual_streams, scale_stream

SIGNATURE = "g (float[2, 3, 5, 5] x) => (float[2, 4, 5, 5] y)"
# A stream of six channels: two Convs begin it, one both reads and adds to it, a grouped and a depthwise Conv read it.
BLOCKS = """
  p = Conv (x, a_w, a_b)
  q = Conv (x, b_w)
  s = Add (p, q)
  r = Conv (s, c_w, c_b)
  t = Add (s, r)
  d = Conv <group = 6, pads = [1, 1, 1, 1]> (t, d_w, d_b)
  e = Conv <group = 2> (t, e_w)
  f = Relu (d)
  h = Add (f, e)
  y = Conv (h, f_w, f_b)
"""


def weights():
    made = Weights(0)
    made.conv("a", 6, 3, 1, 1)
    made.normal("b_w", 6, 3, 1, 1)
    made.conv("c", 6, 6, 1, 1)
    made.conv("d", 6, 1, 3, 3)
    made.normal("e_w", 6, 3, 1, 1)
    made.conv("f", 4, 6, 1, 1)
    return made.arrays


def names_of(stream):
    return sorted(tensor.name for tensor in stream.tensors)


def proto_of(text=BLOCKS, extra=(), signature=SIGNATURE):
    return build(f"{signature} {{ {text} }}", {**weights(), **dict(extra)})


def streams_of(text=BLOCKS, extra=(), signature=SIGNATURE):
    return residual_streams(load(proto_of(text, extra, signature)).graph)


def test_a_stream_is_all_that_adds_join():
    (stream,) = streams_of()
    assert names_of(stream) == ["p", "q", "r", "s", "t"]
    assert [conv.outputs[0].name for conv in stream.producers] == ["p", "q", "r"]
    assert sorted(conv.outputs[0].name for conv in stream.consumers) == ["d", "e", "r"]
    assert stream.channels == 6
    assert not stream.only_depthwise


def test_two_convs_in_a_row_are_a_stream_too():
    (stream,) = streams_of("p = Conv (x, a_w, a_b) y = Conv (p, f_w)")
    assert (names_of(stream), stream.only_depthwise) == (["p"], False)
    (stream,) = streams_of("p = Conv (x, a_w) d = Conv <group = 6> (p, d1) r = Relu (d) y = Conv (r, f_w)", DEPTHWISE)
    assert (names_of(stream), stream.only_depthwise) == (["p"], True)


DEPTHWISE = {"d1": np.ones((6, 1, 1, 1), np.float32)}
ONES = {"one": np.ones((1, 6, 1, 1), np.float32)}


@pytest.mark.parametrize("kind", ["any", "powers"])
def test_scaling_changes_no_output(check, rng, kind):
    def step(model):
        (stream,) = residual_streams(model.graph)
        factors = np.exp2(rng.integers(-4, 5, 6)) if kind == "powers" else rng.uniform(0.1, 10, 6)
        return int(scale_stream(stream, factors, NameAllocator.of(model)))

    changed = check(proto_of(), step)
    assert changed.count == 1
    assert "e_w" in changed.model.graph.initializers


def test_scaling_multiplies_each_channel_of_every_tensor(rng):
    def fetched(model, feed):
        return open_session(add_outputs(model, "pqrst"), threads=1, optimize=False).run(list("pqrst"), feed)

    model, feed = load(proto_of()), {"x": rng.normal(size=(2, 3, 5, 5)).astype(np.float32)}
    before, factors = fetched(model, feed), np.exp2(np.arange(-3, 3)).astype(np.float32)
    (stream,) = residual_streams(model.graph)
    assert scale_stream(stream, factors.astype(np.float64), NameAllocator.of(model))
    for expected, found in zip(before, fetched(model, feed), strict=True):
        np.testing.assert_array_equal(found, expected * factors.reshape(-1, 1, 1))


def test_more_operands_and_other_axes_may_broadcast(check):
    text = (
        "p = Conv (x, a_w) q = Conv (x, b_w) z = Conv <strides = [5, 5]> (x, b_w2) s = Sum (p, q, z) y = Conv (s, f_w)"
    )

    def step(model):
        (stream,) = residual_streams(model.graph)
        assert len(stream.tensors) == 4
        return int(scale_stream(stream, np.arange(1.0, 7.0), NameAllocator.of(model)))

    check(proto_of(text, {"b_w2": weights()["b_w"]}), step)


@pytest.mark.parametrize(
    ("text", "signature"),
    [
        ("p = Conv (x, a_w) r = Relu (p) s = Add (r, p) y = Conv (s, f_w)", SIGNATURE),  # an activation begins it
        ("p = Conv (x, a_w) r = Relu (p) y = Conv (r, f_w)", SIGNATURE),
        ("p = Conv (x, a_w) s = Add (p, one) y = Conv (s, f_w)", SIGNATURE),  # a constant
        ("p = Conv (x, a_w) s = Add (p, u) y = Conv (s, f_w)", SIGNATURE.replace("x)", "x, float[6, 1, 1] u)")),
        ("p = Conv (x, a_w) m = GlobalAveragePool (p) y = Conv (p, f_w)", SIGNATURE),  # another reader
        ("p = Conv (x, a_w) y = Conv (p, f_w)", SIGNATURE.replace("y)", "y, float[2, 6, 5, 5] p)")),  # an output
        ("p = Conv (x, v) y = Conv (p, f_w)", SIGNATURE.replace("x)", "x, float[6, 3, 1, 1] v)")),  # no constant
        ("p = Conv (x, a_w) y = Conv (p, v)", SIGNATURE.replace("x)", "x, float[4, 6, 1, 1] v)")),
        ("p = Conv (x, a_w, v) y = Conv (p, f_w)", SIGNATURE.replace("x)", "x, float[6] v)")),
        ("p = Conv (x, a_w) k = Conv (x, a_w) r = Relu (k) y = Conv (p, f_w)", SIGNATURE),  # a shared weight
        ("p = Conv (x, a_w) q = Conv (x, n) s = Add (p, q) y = Conv (s, f_w)", SIGNATURE),  # channels broadcast
        ("p = Conv (x, a_w) y = Add (p, p)", SIGNATURE.replace("4", "6")),
    ],
)
def test_what_is_not_linear_or_not_private_is_no_stream(text, signature):
    narrow = {"n": np.ones((1, 3, 1, 1), np.float32), **ONES}
    assert streams_of(text, narrow, signature) == []


def test_a_reader_in_a_body_is_no_stream():
    text = """
      p = Conv (x, a_w)
      s = If (c) <then_branch = a () => (float[2, 6, 5, 5] i) { i = Conv (p, c_w) },
                  else_branch = b () => (float[2, 6, 5, 5] j) { j = Relu (x6) }>
      y = Conv (p, f_w)
    """
    signature = SIGNATURE.replace("x)", "x, float[2, 6, 5, 5] x6, bool c)")
    assert streams_of(text, (), signature) == []


def test_a_number_that_would_overflow_leaves_all_as_it_is():
    half = {name: array.astype(np.float16) for name, array in weights().items()}
    text = f"{SIGNATURE.replace('float', 'float16')} {{ {BLOCKS} }}"
    model = load(build(text, half))
    (stream,) = residual_streams(model.graph)
    assert not scale_stream(stream, np.full(6, 1e-6), NameAllocator.of(model))
    assert not scale_stream(stream, np.full(6, 1e6), NameAllocator.of(model))
    for name, array in half.items():
        np.testing.assert_array_equal(model.graph.initializers[name].const_value.numpy(), array)


def test_a_shared_bias_is_copied():
    text = "p = Conv (x, a_w, a_b) k = Conv (x, b_w, a_b) r = Relu (k) s = Conv (r, c_w) y = Conv (p, f_w)"
    model = load(proto_of(text))
    (stream,) = residual_streams(model.graph)
    assert scale_stream(stream, np.full(6, 2.0), NameAllocator.of(model))
    biases = [nodes_by_name(model)[name].inputs[2] for name in ("Conv_0", "Conv_1")]
    np.testing.assert_array_equal(biases[0].const_value.numpy(), 2 * biases[1].const_value.numpy())
