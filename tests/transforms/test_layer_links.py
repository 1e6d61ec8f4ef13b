"""Which layers are linked, and through what."""

import numpy as np
import onnx
import pytest

from models.build import Weights, build
from vqonnx.graph.io import load
from vqonnx.transforms.layer_links import layer_links
from vqonnx.transforms.shapes import infer_shapes

SIGNATURE = "g (float[2, 3, 8, 8] x, bool q) => (float[a, b, c, d] y)"


def weights():
    made = Weights(0)
    made.conv("a", 6, 3, 3, 3)
    made.conv("d", 6, 1, 3, 3)
    made.conv("p", 4, 6, 1, 1)
    made.normal("wide", 4, 10, 1, 1)
    made.normal("t", 6, 2, 2, 2)
    made.linear("g", 6, 5)
    made.linear("g4", 24, 5)
    made.normal("gt", 5, 6)
    arrays = {"six": np.float32(6), "zero": np.float32(0), "slope": made.arrays["a_b"].reshape(6, 1, 1)}
    arrays |= {"pads": np.int64([0, 0, 1, 1, 0, 0, 1, 1]), "deep": np.int64([0, 1, 0, 0, 0, 0, 0, 0])}
    arrays |= {"rows": np.int64([2, 24]), "image": np.int64([0, 6, 1, 1]), "mixed": np.int64([2, 12, -1, 1])}
    arrays |= {"scales": np.float32([1, 1, 2, 2]), "more": np.float32([1, 2, 1, 1]), "axes": np.int64([2, 3])}
    return {**made.arrays, **arrays}


def links(text, *, signature=SIGNATURE, through_clips=False, opset=17, arrays=None):
    """Head, and for each tail its node's output, first input and repeats; by names of values."""
    proto = build(f"{signature} {{ {text} }}", {**weights(), **(arrays or {})}, opset=opset)
    if "[a, b, c, d]" in signature:
        proto.graph.output[0].type.tensor_type.ClearField("shape")
    model = load(proto)
    infer_shapes(model)
    found = layer_links(model.graph, through_clips=through_clips)
    return [
        (
            link.head.node.outputs[0].name,
            sorted((tail.linear.node.outputs[0].name, tail.first, tail.repeat) for tail in link.tails),
            len(link.clips),
        )
        for link in found
    ]


HEAD = "h = Conv <pads = [1, 1, 1, 1]> (x, a_w, a_b)"
POOL = "p = MaxPool <kernel_shape = [4, 4], strides = [4, 4]> (h)"
BRANCH = "k = Conv <pads = [1, 1, 1, 1]> (x, k_w)"
PAIR = [("h", [("y", 0, 1)], 0)]

THROUGH = {
    "nothing": "y = Conv (h, p_w, p_b)",
    "relu": "r = Relu (h) y = Conv (r, p_w, p_b)",
    "leaky relu": "r = LeakyRelu <alpha = 0.1> (h) y = Conv (r, p_w, p_b)",
    "parametric relu": "r = PRelu (h, slope) y = Conv (r, p_w, p_b)",
    "absolute": "m = Neg (h) r = Abs (m) y = Conv (r, p_w, p_b)",
    "clip from zero": "r = Clip (h, zero) y = Conv (r, p_w, p_b)",
    "max pool": "r = MaxPool <kernel_shape = [2, 2]> (h) y = Conv (r, p_w, p_b)",
    "average pool": "r = AveragePool <kernel_shape = [2, 2], pads = [1, 1, 1, 1]> (h) y = Conv (r, p_w, p_b)",
    "global pools": "r = GlobalAveragePool (h) s = GlobalMaxPool (r) y = Conv (s, p_w, p_b)",
    "mean": "r = ReduceMean <axes = [2, -1]> (h) y = Conv (r, p_w, p_b)",
    "zero padding": "r = Pad (h, pads) y = Conv (r, p_w, p_b)",
    "zero padding, said": "r = Pad (h, pads, zero) y = Conv (r, p_w, p_b)",
    "reflection": 'r = Pad <mode = "reflect"> (h, pads) y = Conv (r, p_w, p_b)',
    "resize": "r = Resize (h, , scales) y = Conv (r, p_w, p_b)",
    "transposed tail": "y = ConvTranspose (h, t)",
    "depthwise tail": "y = Conv <group = 6> (h, d_w, d_b)",
}


@pytest.mark.parametrize("name", THROUGH)
def test_what_a_factor_passes_through(name):
    assert links(f"{HEAD} {THROUGH[name]}") == PAIR


@pytest.mark.parametrize(
    ("text", "tail"),
    [
        ("p = GlobalAveragePool (h) f = Flatten (p) y = Gemm (f, g_w, g_b)", ("y", 0, 1)),
        ("p = ReduceMean <axes = [2, 3], keepdims = 0> (h) y = Gemm <transB = 1> (p, gt)", ("y", 0, 1)),
        ("p = GlobalAveragePool (h) f = Squeeze (p, axes) y = Gemm (f, g_w)", ("y", 0, 1)),
        ("p = GlobalMaxPool (h) f = Squeeze (p, axes) u = Reshape (f, image) y = Conv (u, p_w)", ("y", 0, 1)),
        (f"{POOL} f = Flatten (p) y = Gemm (f, g4_w)", ("y", 0, 4)),
        (f"{POOL} f = Reshape (p, rows) y = Gemm (f, g4_w)", ("y", 0, 4)),
    ],
)
def test_into_a_gemm(text, tail):
    assert links(f"{HEAD} {text}") == [("h", [tail], 0)]


def test_gemms_in_a_row():
    text = "h = Gemm (x, g_w, g_b) r = Relu (h) y = Gemm <transB = 1> (r, k)"
    arrays = {"k": np.ones((2, 5), np.float32)}
    assert links(text, signature="g (float[N, 6] x) => (float[N, 2] y)", arrays=arrays) == PAIR


def test_chains_link_layer_by_layer():
    text = f"{HEAD} r = Relu (h) d = Conv <group = 6> (r, d_w, d_b) s = Relu (d) y = Conv (s, p_w, p_b)"
    assert links(text) == [("h", [("d", 0, 1)], 0), ("d", [("y", 0, 1)], 0)]


def test_several_tails():
    text = f"{HEAD} r = Relu (h) p = Abs (h) m = Conv (r, p_w, p_b) n = Conv (p, n_w) y = Add (m, n)"
    arrays = {"n_w": np.ones((4, 6, 1, 1), np.float32)}
    assert links(text, arrays=arrays) == [("h", [("m", 0, 1), ("n", 0, 1)], 0)]


def test_channels_joined_with_others():
    text = (
        f"{HEAD} k = Conv <pads = [1, 1, 1, 1]> (x, k_w) r = Relu (k) j = Concat <axis = -3> (r, h) y = Conv (j, wide)"
    )
    arrays = {"k_w": np.ones((4, 3, 3, 3), np.float32)}
    assert links(text, arrays=arrays) == [("h", [("y", 4, 1)], 0), ("k", [("y", 0, 1)], 0)]


def test_one_value_joined_twice():
    text = f"{HEAD} j = Concat <axis = 1> (h, h) y = Conv (j, w12)"
    found = links(text, arrays={"w12": np.ones((4, 12, 1, 1), np.float32)})
    assert found == [("h", [("y", 0, 1), ("y", 6, 1)], 0)]


@pytest.mark.parametrize("bounds", ["r = Clip (h, zero, six)", "r = Clip (h, , six)"])
def test_clips_when_asked(bounds):
    text = f"{HEAD} {bounds} y = Conv (r, p_w, p_b)"
    assert links(text) == []
    assert links(text, through_clips=True) == [("h", [("y", 0, 1)], 1)]


def test_a_clip_of_joined_channels_ends_the_way():
    text = f"{HEAD} {BRANCH} j = Concat <axis = 1> (h, k) r = Clip (j, zero, six) y = Conv (r, wide)"
    assert links(text, through_clips=True, arrays={"k_w": np.ones((4, 3, 3, 3), np.float32)}) == []


CROP = 'coordinate_transformation_mode = "tf_crop_and_resize"'
OUTPUT_INSIDE = SIGNATURE.replace("y)", "y, float[2, 6, 8, 8] r)")
IN_A_BODY = """
  y = If (q) <then_branch = s () => (float[2, 4, 8, 8] i) { i = Conv (h, p_w) },
              else_branch = u () => (float[2, 4, 8, 8] j) { j = Conv (x, k_w) }>
"""


@pytest.mark.parametrize(
    ("text", "signature"),
    [
        ("r = Relu (h) y = Conv (r, p_w)", OUTPUT_INSIDE),
        ("r = Relu (h) m = Conv (r, p_w) y = Relu (r)", SIGNATURE),
        ("r = Sigmoid (h) y = Conv (r, p_w)", SIGNATURE),
        ("r = Clip (h, zero, six) y = Conv (r, p_w)", SIGNATURE),
        ("r = Softmax <axis = 1> (h) y = Conv (r, p_w)", SIGNATURE),
        ("r = Add (h, six) y = Conv (r, p_w)", SIGNATURE),
        ("r = PRelu (slope4, h) y = Conv (r, p_w)", SIGNATURE),
        ("r = ReduceMean <axes = [1, 2]> (h) y = Conv (r, w1)", SIGNATURE),
        ("r = Pad (h, pads, six) y = Conv (r, p_w)", SIGNATURE),
        ("r = Pad (h, deep) y = Conv (r, w7)", SIGNATURE),
        ("r = Resize (h, , more) y = Conv (r, w12)", SIGNATURE),
        (f"r = Resize <{CROP}> (h, roi, scales) y = Conv (r, p_w)", SIGNATURE),
        ("r = Concat <axis = 2> (h, h) y = Conv (r, p_w)", SIGNATURE),
        ("r = Transpose <perm = [0, 2, 1, 3]> (h) y = Conv (r, w8)", SIGNATURE),
        ("r = Reshape (h, mixed) y = Conv (r, w12)", SIGNATURE),
        ("y = Conv (h, a_w2)", SIGNATURE),
        ("i = Conv (h, p_w) j = Conv (h, p_w) y = Add (i, j)", SIGNATURE),  # a shared weight
        ("k = Conv (x, a_w) r = Conv (h, p_w) m = Relu (k) y = Relu (r)", SIGNATURE),  # the head's
        ("r = my.Relu (h) y = Conv (r, p_w)", SIGNATURE),
        ("m, i = MaxPool <kernel_shape = [1, 1]> (h) c = Cast <to = 1> (i) y = Conv (m, p_w)", SIGNATURE),  # indices
        (IN_A_BODY, SIGNATURE),
    ],
)
def test_where_the_way_ends(text, signature):
    ones = {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}
    proto = build(f"{signature} {{ {HEAD} {text} }}", {**weights(), **ones}, domains={"my": 1})
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    if "a_w2" in text:  # a weight that may be fed
        proto.graph.input.append(onnx.helper.make_tensor_value_info("a_w2", 1, [4, 6, 1, 1]))
    model = load(proto)
    infer_shapes(model)
    assert "h" not in {link.head.node.outputs[0].name for link in layer_links(model.graph, through_clips=False)}


SHAPES = {
    "slope4": (2, 6, 8, 8), "w1": (4, 1, 1, 1), "w7": (4, 7, 1, 1), "w8": (4, 8, 1, 1), "w12": (4, 12, 1, 1),
    "roi": (8,), "a_w2": (4, 6, 1, 1), "k_w": (4, 3, 1, 1),
}  # fmt: skip


def test_half_precision_is_left():
    arrays = {name: array.astype(np.float16) for name, array in weights().items() if array.dtype == np.float32}
    text = "g (float16[2, 3, 8, 8] x) => (float16[2, 4, 6, 6] y) { h = Conv (x, a_w) y = Conv (h, p_w) }"
    assert layer_links(load(build(text, arrays)).graph) == []


def test_a_transposed_gemm_reads_rows_not_channels():
    text = "h = Gemm (x, g_w, g_b) y = Gemm <transA = 1> (h, k)"
    arrays = {"k": np.ones((6, 2), np.float32)}
    assert links(text, signature="g (float[6, 6] x) => (float[5, 2] y)", arrays=arrays) == []


def test_very_many_readers_are_not_followed():
    readers = " ".join(f"r{i} = Relu (h)" for i in range(80))
    assert links(f"{HEAD} {readers} y = Conv (r0, p_w)") == []
