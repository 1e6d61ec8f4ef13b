"""Layers are equalized: outputs stay, and both sides of each link end with weights of one size."""

import numpy as np
import onnx
import pytest

from models.build import Weights, build
from vqonnx.errors import UnsupportedModelError
from vqonnx.graph.io import load
from vqonnx.graph.walk import constant, nodes, nodes_by_name
from vqonnx.transforms.cross_layer import CrossLayerEqualization, equalize_layers
from vqonnx.transforms.shapes import infer_shapes

DEFAULT = CrossLayerEqualization()
PLAIN = CrossLayerEqualization(count_bias=False)
CHAIN = """
g (float[2, 3, 8, 8] x) => (float[2, 4, 8, 8] y) {
  h = Conv <pads = [1, 1, 1, 1]> (x, a_w, a_b)
  r = Relu (h)
  d = Conv <group = 6, pads = [1, 1, 1, 1]> (r, d_w, d_b)
  s = LeakyRelu (d)
  y = Conv (s, p_w, p_b)
}
"""


def uneven(seed=0):
    """Weights whose channels differ a hundredfold, as folded BatchNormalizations leave them."""
    made = Weights(seed)
    made.conv("a", 6, 3, 3, 3)
    made.conv("d", 6, 1, 3, 3)
    made.conv("p", 4, 6, 1, 1)
    made.conv("b", 4, 3, 3, 3)
    made.conv("j", 5, 10, 1, 1)
    made.normal("t", 6, 2, 2, 2)
    made.bias("t_b", 4)
    made.linear("g", 24, 5)
    made.linear("n", 5, 3)
    spread = np.geomspace(0.1, 10, 6, dtype=np.float32)
    made.arrays["a_w"] *= spread.reshape(-1, 1, 1, 1)
    made.arrays["d_w"] *= spread[[2, 0, 5, 1, 4, 3]].reshape(-1, 1, 1, 1)
    arrays = {"zero": np.float32(0), "six": np.float32(0.6), "low": np.float32(-0.3)}
    arrays |= {"gt": made.arrays["n_w"].T.copy(), "pads": np.int64([0, 0, 1, 1, 0, 0, 1, 1])}
    return {**made.arrays, **arrays}


def model_of(text, arrays=None, opset=17):
    return build(text, {**uneven(), **(arrays or {})}, opset=opset)


def step(options=DEFAULT):
    def run(model):
        infer_shapes(model)
        return equalize_layers(model, options)

    return run


def head_ranges(model, name):
    weight = constant(nodes_by_name(model)[name].inputs[1])
    return np.abs(weight).reshape(weight.shape[0], -1).max(axis=1)


def tail_ranges(model, name):
    weight = constant(nodes_by_name(model)[name].inputs[1])
    return np.abs(np.moveaxis(weight, 1, 0)).reshape(weight.shape[1], -1).max(axis=1)


@pytest.mark.parametrize("options", [CrossLayerEqualization(), PLAIN, CrossLayerEqualization(rounds=1, least=0.5)])
def test_outputs_stay(check, options):
    assert check(model_of(CHAIN), step(options)).count == 2


def test_three_layers_end_at_the_cube_root(check):
    before = load(model_of(CHAIN))
    ranges = [head_ranges(before, "Conv_0"), head_ranges(before, "Conv_2"), tail_ranges(before, "Conv_4")]
    model = check(model_of(CHAIN), step(PLAIN)).model
    wanted = np.cbrt(np.prod(ranges, axis=0))
    for found in (head_ranges(model, "Conv_0"), head_ranges(model, "Conv_2"), tail_ranges(model, "Conv_4")):
        np.testing.assert_allclose(found, wanted, rtol=1e-2)
    assert equalize_layers(model, PLAIN) == 0


def test_a_large_bias_holds_its_channel_down(check):
    arrays = {"a_b": np.float32([40, 0, 0, 0, 0, 0])}
    counted = check(model_of(CHAIN, arrays), step()).model
    plain = check(model_of(CHAIN, arrays), step(PLAIN)).model
    bias = [abs(constant(nodes_by_name(model)["Conv_0"].inputs[2])[0]) for model in (counted, plain)]
    assert bias[0] < bias[1] / 2


def test_dead_channels_are_scaled_a_bounded_way(check):
    arrays = uneven()
    arrays["a_w"][0] *= 1e-12
    arrays["a_w"][1] = 0
    model = check(model_of(CHAIN, arrays), step(PLAIN)).model
    found = np.abs(constant(nodes_by_name(model)["Conv_0"].inputs[2]) / arrays["a_b"])
    assert found[0] == pytest.approx(1024)
    assert found[1] == 1


OTHERS = {
    "transposed convolutions": """
      g (float[2, 3, 8, 8] x) => (float[2, 5, c, d] y) {
        h = Conv (x, a_w, a_b) r = Relu (h) t1 = ConvTranspose <group = 2> (r, t, t_b) s = Relu (t1)
        y = Conv (s, q)
      }""",
    "groups": """
      g (float[2, 3, 8, 8] x) => (float[2, 4, 8, 8] y) {
        h = Conv <pads = [1, 1, 1, 1]> (x, a_w) r = Relu (h) y = Conv <group = 2> (r, half) }""",
    "several tails and Concat": """
      g (float[2, 3, 8, 8] x) => (float[2, 5, 8, 8] y, float[2, 4, 8, 8] z) {
        h = Conv <pads = [1, 1, 1, 1]> (x, a_w, a_b) r = Relu (h)
        k = Conv <pads = [1, 1, 1, 1]> (x, b_w, b_b) s = Relu (k)
        c = Concat <axis = 1> (s, r) y = Conv (c, j_w, j_b) z = Conv (r, p_w, p_b)
      }""",
    "pools, pads and Gemms": """
      g (float[2, 3, 8, 8] x) => (float[2, 3] y) {
        h = Conv <pads = [1, 1, 1, 1]> (x, a_w, a_b) r = Relu (h) o = Pad (r, pads)
        p = MaxPool <kernel_shape = [5, 5], strides = [5, 5]> (o) f = Flatten (p) m = Gemm (f, g_w, g_b)
        s = Relu (m) y = Gemm <transB = 1> (s, gt, n_b)
      }""",
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("options", [CrossLayerEqualization(), PLAIN])
def test_other_layers(check, name, options):
    rng = np.random.default_rng(1)
    arrays = {"q": rng.normal(size=(5, 4, 1, 1)), "half": rng.normal(size=(4, 3, 1, 1))}
    proto = model_of(OTHERS[name], {key: array.astype(np.float32) for key, array in arrays.items()})
    assert check(proto, step(options)).count >= 1


def test_two_convs_in_one_dimension(check):
    rng = np.random.default_rng(0)
    arrays = {"u": rng.normal(size=(6, 3, 2)), "v": rng.normal(size=(4, 6, 2))}
    text = "g (float[N, 3, L] x) => (float[N, 4, M] y) { h = Conv (x, u) r = Relu (h) y = Conv (r, v) }"
    assert check(build(text, {key: array.astype(np.float32) for key, array in arrays.items()}), step()).count == 1


CLIPPED = CHAIN.replace("Relu (h)", "Clip (h, zero, six)").replace("LeakyRelu (d)", "Clip (d, low, six)")


@pytest.mark.parametrize(
    ("text", "ops"),
    [
        (CLIPPED, ["Conv", "Relu", "Min", "Conv", "Max", "Min", "Conv"]),
        (CLIPPED.replace("(h, zero, six)", "(h, , six)"), ["Conv", "Min", "Conv", "Max", "Min", "Conv"]),
        (CLIPPED.replace("(h, zero, six)", "(h, low)"), ["Conv", "Max", "Conv", "Max", "Min", "Conv"]),
    ],
)
def test_through_clips_that_bind(check, text, ops):
    changed = check(model_of(text), step(CrossLayerEqualization(through_clips=True)))
    assert (changed.count, changed.ops) == (2, ops)
    assert check(model_of(text), step()).count == 0


def test_clips_by_attribute(check):
    text = CHAIN.replace("Relu (h)", "Clip <min = 0.0, max = 0.6> (h)")
    assert check(model_of(text, opset=8), step(CrossLayerEqualization(through_clips=True))).count == 2
    with pytest.raises(UnsupportedModelError, match="need opset 8, the model has 7"):
        step(CrossLayerEqualization(through_clips=True))(load(model_of(text, opset=7)))


def test_shared_biases_are_copied(check):
    proto = model_of(CHAIN)
    proto.graph.node[2].input[2] = "a_b"  # the depthwise Conv reads the first one's bias
    model = check(proto, step()).model
    assert len({nodes_by_name(model)[name].inputs[2] for name in ("Conv_0", "Conv_2")}) == 2


def test_overflow_leaves_all_as_it_is():
    arrays = uneven()
    arrays["a_w"][0], arrays["a_b"][0] = 1e-6, 1e38
    model = load(model_of(CHAIN, arrays))
    infer_shapes(model)
    assert equalize_layers(model, PLAIN) == 0
    for name in ("a_w", "a_b", "d_w", "p_w"):
        np.testing.assert_array_equal(model.graph.initializers[name].const_value.numpy(), arrays[name])


def test_a_model_without_links(check):
    proto: onnx.ModelProto = build("g (float[N] x) => (float[N] y) { y = Relu (x) }")
    model = load(proto)
    assert equalize_layers(model) == 0
    assert [node.op_type for node in nodes(model)] == ["Relu"]
