"""Bias correction brings the means of channels back to the float model's, layer after layer."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.build import Weights, build
from models.convolutions import conv_transpose
from models.matmuls import linear_bias
from models.networks import residual_cnn
from models.sharing import one_weight
from tests.quantizers.flow import normals, quantizer, run
from vqonnx.core.solution import Solutions
from vqonnx.graph.io import load
from vqonnx.quantizers.base import BaseQuantizer
from vqonnx.runtime.session import add_outputs
from vqonnx.stages.correct import correct, correctable
from vqonnx.stages.emit import emit

Means = dict[str, Any]
COARSE = {"weight_qType": "QInt4"}
"""4-bit weights shift means enough to be seen."""


def chain() -> onnx.ModelProto:
    """Four convolutions, one of them in groups; a Relu, a Clip and nothing between them."""
    weights = Weights(8)
    for name, shape in (("a", (8, 3, 3, 3)), ("b", (8, 2, 3, 3)), ("c", (8, 8, 1, 1)), ("d", (4, 8, 1, 1))):
        weights.conv(name, *shape)
    weights.arrays |= {"low": np.float32(0), "high": np.float32(6)}
    text = """chain (float[N, 3, 10, 10] x) => (float[N, 4, 6, 6] y) {
        a = Conv (x, a_w, a_b)
        ra = Relu (a)
        b = Conv <group = 4> (ra, b_w, b_b)
        rb = Clip (b, low, high)
        c = Conv (rb, c_w, c_b)
        y = Conv (c, d_w, d_b)
    }"""
    return build(text, weights.arrays)


FEEDS = normals(8, {"x": (2, 3, 10, 10)})


def channel_means(model: ir.Model, names: dict[str, str], feeds: Any, axis: int = 1) -> Means:
    """Mean of each channel of some values, by the layer they belong to."""
    watched = add_outputs(load(model), list(names.values()))
    runs = [run(watched, feed) for feed in feeds]
    return {
        layer: np.mean([np.moveaxis(one[name], axis, 0).reshape(one[name].shape[axis], -1).mean(1) for one in runs], 0)
        for layer, name in names.items()
    }


def shifts(made: BaseQuantizer, solutions: Solutions, feeds: Any, axis: int = 1) -> Means:
    """How far the mean of each channel behind each layer is off, as a share of its spread."""
    plan = made.current_plan()
    layers = {layer.result: layer.key for layer in correctable(made.model, plan)}
    inside = {
        result: result
        if key is None or made.model.graph.outputs[0].name == result
        else f"{key}_DequantizeLinear_Output"
        for result, key in layers.items()
    }
    expected = channel_means(made.model, {result: result for result in layers}, feeds, axis)
    given = channel_means(emit(made.model, plan, solutions), inside, feeds, axis)
    return {result: np.abs(given[result] - expected[result]).max() for result in layers}


def test_after_correction_the_means_of_a_chain_are_the_float_models() -> None:
    made = quantizer(chain(), FEEDS, **COARSE)
    plain = made.solve()
    corrected = correct(made.model, made.current_plan(), plain, [dict(feed) for feed in FEEDS])
    before, after = shifts(made, plain, FEEDS), shifts(made, corrected, FEEDS)
    assert list(before) == ["ra", "rb", "c", "y"]
    for layer in ("c", "y"):  # no clip behind them, so that a shift of the bias is one of the mean
        assert after[layer] < 0.01 < before[layer]
    for layer in ("ra", "rb"):  # a clip swallows a part of the shift
        assert after[layer] < 0.5 * before[layer]


def test_only_biases_change_and_only_their_codes() -> None:
    made = quantizer(chain(), FEEDS, **COARSE)
    plain = made.solve()
    corrected = correct(made.model, made.current_plan(), plain, [dict(feed) for feed in FEEDS])
    assert corrected.activations == plain.activations
    biases = {layer.bias for layer in correctable(made.model, made.current_plan())}
    assert biases == {"a_b", "b_b", "c_b", "d_b"}
    for key, tensor in corrected.constants.items():
        assert (tensor is not plain.constants[key]) == (key in biases)
        assert tensor.params is plain.constants[key].params
        assert tensor.codes.dtype == plain.constants[key].codes.dtype


def test_later_layers_see_the_corrected_ones() -> None:
    """The second layer's shift is taken out of the model whose first layer is right already."""
    made = quantizer(chain(), FEEDS, **COARSE)
    plan, plain = made.current_plan(), made.solve()
    both = correct(made.model, plan, plain, [dict(feed) for feed in FEEDS])
    again = correct(made.model, plan, both, [dict(feed) for feed in FEEDS])
    # Corrected biases are right behind each other, so that a second time finds little to do.
    last = {key: np.abs(again.constants[key].codes - both.constants[key].codes).max() for key in ("c_b", "d_b")}
    first = {key: np.abs(both.constants[key].codes - plain.constants[key].codes).max() for key in ("c_b", "d_b")}
    assert all(last[key] < 0.25 * first[key] for key in last)


@pytest.mark.parametrize(
    ("model", "shape", "axis"),
    [(linear_bias(), (2, 3, 8), -1), (conv_transpose(2), (2, 8, 5, 5), 1), (residual_cnn(), (2, 3, 16, 16), 1)],
    ids=["linear", "transposed", "residual"],
)
def test_the_mean_of_the_output_comes_back(model: onnx.ModelProto, shape: tuple[int, ...], axis: int) -> None:
    feeds = normals(8, {"x": shape})
    made = quantizer(model, feeds, **COARSE)
    plain = made.solve()
    corrected = correct(made.model, made.current_plan(), plain, [dict(feed) for feed in feeds])
    expected, before, after = (
        channel_means(one, {"y": "y"}, feeds, axis)["y"]
        for one in (
            made.model,
            emit(made.model, made.current_plan(), plain),
            emit(made.model, made.current_plan(), corrected),
        )
    )
    step = max(float(np.max(one.params.scale)) for one in corrected.constants.values() if one.codes.dtype == np.int32)
    assert np.abs(after - expected).max() < 0.2 * np.abs(before - expected).max() + step / 2
    assert np.abs(after - expected).max() < 0.5 * np.abs(before - expected).max()


def test_a_bias_that_two_layers_share_by_one_form_is_left() -> None:
    weights = Weights(0)
    weights.conv("a", 4, 3, 3, 3)
    text = """g (float[N, 3, 6, 6] x) => (float[N, 4, 4, 4] y, float[N, 4, 2, 2] z) {
        y = Conv (x, a_w, a_b)
        z = Conv <strides = [2, 2]> (x, a_w, a_b)
    }"""
    feeds = normals(2, {"x": (1, 3, 6, 6)})
    made = quantizer(build(text, weights.arrays), feeds)
    assert correctable(made.model, made.current_plan()) == []
    solutions = made.solve()
    assert correct(made.model, made.current_plan(), solutions, [dict(feed) for feed in feeds]) is solutions


def test_a_bias_with_a_form_for_each_layer_is_corrected_in_each() -> None:
    feeds = normals(2, {"x": (1, 4, 6, 6)})
    made = quantizer(one_weight(), feeds)
    assert [layer.bias for layer in correctable(made.model, made.current_plan())] == ["c_b", "c_b_2"]
    assert [(layer.result, layer.key, layer.axis) for layer in correctable(made.model, made.current_plan())] == [
        ("r", "r", 1),
        ("y", "y", 1),
    ]


def test_each_layer_is_told() -> None:
    made = quantizer(chain(), FEEDS)
    told: list[tuple[str, int, int | None]] = []
    correct(
        made.model,
        made.current_plan(),
        made.solve(),
        [dict(feed) for feed in FEEDS],
        progress=lambda what, done, total: told.append((what, done, total)),
    )
    assert told == [("correct biases", done, 4) for done in range(1, 5)]
