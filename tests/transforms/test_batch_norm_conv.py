"""BatchNormalizations become depthwise Convs of one element, and outputs stay."""

import numpy as np
import pytest

from models.build import build
from vqonnx.graph.io import load
from vqonnx.graph.walk import constant
from vqonnx.transforms.batch_norm_conv import batch_norms_to_convs

RNG = np.random.default_rng(0)
CHANNELS = 5


def statistics(dtype=np.float32, variance=(0.5, 2.0)):
    vectors = {name: RNG.normal(size=CHANNELS).astype(dtype) for name in ("g", "o", "m")}
    return {**vectors, "v": RNG.uniform(*variance, CHANNELS).astype(dtype)}


def norm(dims="2, 5, 4, 4", attributes="", *, dtype="float", opset=17, weights=None):
    text = f"g ({dtype}[{dims}] x) => ({dtype}[{dims}] y) {{ y = BatchNormalization {attributes} (x, g, o, m, v) }}"
    return build(text, weights or statistics(), opset=opset)


@pytest.mark.parametrize("opset", [7, 9, 13, 14, 15, 17, 21])
def test_every_opset(check, opset):
    changed = check(norm(attributes="<epsilon = 0.01>", opset=opset), batch_norms_to_convs)
    assert (changed.count, changed.ops) == (1, ["Conv"])
    assert changed.model.graph[0].name == "BatchNormalization_0"


@pytest.mark.parametrize("dims", ["N, 5, L", "N, 5, H, W", "2, 5, 3, 3, 3"])
def test_every_rank(check, dims):
    assert check(norm(dims), batch_norms_to_convs).ops == ["Conv"]


def test_epsilon_is_1e_5_where_it_is_not_written(check):
    """With variances as small as epsilon the default decides: 1e-10 instead would double the output."""
    changed = check(norm(weights=statistics(variance=(1e-6, 1e-5))), batch_norms_to_convs)
    assert changed.count == 1


def test_half_precision(check):
    changed = check(norm(dtype="float16", weights=statistics(np.float16)), batch_norms_to_convs)
    assert changed.ops == ["Conv"]
    assert constant(changed.model.graph[0].inputs[1]).dtype == np.float16


def test_half_values_with_single_statistics(check):
    changed = check(norm(dtype="float16"), batch_norms_to_convs)
    assert changed.ops == ["Conv"]
    assert constant(changed.model.graph[0].inputs[2]).dtype == np.float16


def test_shared_statistics_and_a_body(check):
    text = """
    g (float[1, 5, 3, 3] x, bool c) => (float[1, 5, 3, 3] y) {
      a = BatchNormalization (x, g, o, m, v)
      y = If (c) <then_branch = p () => (float[1, 5, 3, 3] i) { i = BatchNormalization (a, g, o, m, v) },
                  else_branch = q () => (float[1, 5, 3, 3] j) { j = Relu (a) }>
    }
    """
    proto = build(text, statistics())
    proto.graph.value_info.extend([proto.graph.input[0]])
    proto.graph.value_info[0].name = "a"
    changed = check(proto, batch_norms_to_convs)
    assert (changed.count, changed.ops) == (2, ["Conv", "If", "Conv", "Relu"])


@pytest.mark.parametrize(
    "proto",
    [
        norm("N, 5"),  # no spatial axis
        norm("1, 5, 2, 2, 2, 2"),
        norm(dtype="double", weights=statistics(np.float64)),
        norm(dtype="float16", weights={**statistics(), "g": np.full(CHANNELS, 1e6, np.float32)}),  # overflows
        norm(weights={**statistics(), "v": np.full(CHANNELS, -1, np.float32)}),
        norm(attributes="<spatial = 0>", opset=7, weights={k: np.ones((5, 4, 4), np.float32) for k in "gomv"}),
        norm(attributes="<training_mode = 1>"),
        build("g (float[N, 2, 3] x, float[2] v) => (float[N, 2, 3] y) { y = BatchNormalization (x, v, v, v, v) }"),
    ],
)
def test_what_a_conv_cannot_say_stays(proto):
    assert batch_norms_to_convs(load(proto)) == 0


def test_an_unknown_rank_stays():
    proto = norm()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    assert batch_norms_to_convs(load(proto)) == 0
