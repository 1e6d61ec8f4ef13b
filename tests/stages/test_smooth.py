"""Smoothing leaves the float model what it is, and evens out what products read."""

import numpy as np
import pytest
from onnx import numpy_helper, parser

from vqonnx.graph.io import load
from vqonnx.graph.walk import values_by_name
from vqonnx.runtime.session import open_session
from vqonnx.stages.smooth import Smoothing, smooth
from vqonnx.stages.take import take

TEXTS = {
    "a norm takes the factors": (
        "(float[2,6] x) => (float[2,4] y) {n = LayerNormalization (x, g, s) y = MatMul (n, w)}",
        {"g": (6,), "s": (6,), "w": (6, 4)},
        0,
    ),
    "a graph input gets a division, one for two readers": (
        "(float[2,6] x) => (float[2,4] y) {a = MatMul (x, w) b = Gemm <transB = 1> (x, v) y = Add (a, b)}",
        {"w": (6, 4), "v": (4, 6)},
        1,
    ),
    "an image": (
        "(float[1,3,5,5] x) => (float[1,4,5,5] y) {y = Conv <pads = [1, 1, 1, 1]> (x, w)}",
        {"w": (4, 3, 3, 3)},
        1,
    ),
    "nothing that could be smoothed": (
        "(float[2,6] x) => (float[4,4] y) {t = MatMul (w, v) y = Gemm <transA = 1> (t, u)}",
        {"w": (3, 6), "v": (6, 4), "u": (3, 4)},
        0,
    ),
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("fold", [True, False])
def test_the_float_model_stays_what_it_is(name: str, fold: bool) -> None:
    text, weights, divisions = TEXTS[name]
    random = np.random.default_rng(3)
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')
    for weight, shape in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(random.normal(size=shape).astype(np.float32), weight))
    model = take(load(proto), opset=10).model
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    feeds = [{"x": random.normal(size=shape).astype(np.float32)} for _ in range(3)]
    for feed in feeds:
        feed["x"][:, 1] *= 50
    before = [open_session(model).run(None, feed)[0] for feed in feeds]
    added = smooth(model, feeds, Smoothing(alpha=0.5, fold=fold))
    folded = name.startswith("a norm")
    assert len(added) == divisions + (folded and not fold)
    after = [open_session(model).run(None, feed)[0] for feed in feeds]
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * np.abs(before).max())


def test_alpha_1_gives_all_channels_one_range() -> None:
    text, _, _ = TEXTS["a graph input gets a division, one for two readers"]
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> g {text}')
    for weight, shape in (("w", (6, 4)), ("v", (4, 6))):
        proto.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), weight))
    model = take(load(proto), opset=10).model
    x = np.array([[1, -2, 3, 40, 0, 6], [1, 1, 1, 1, 0, 1]], np.float32)
    smooth(model, [{"x": x}], Smoothing(alpha=1.0))
    scale = values_by_name(model)["x_smooth_scale"].const_value
    assert scale is not None
    np.testing.assert_allclose(np.abs(x * scale.numpy()).max(axis=0), [1, 1, 1, 1, 0, 1])
