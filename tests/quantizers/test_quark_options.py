"""Options that programs for AMD Quark pass: each does what it says, or is refused with the way out."""

from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.build import build
from vqonnx import plan, quantize_static
from vqonnx.errors import OptionError
from vqonnx.quantizers.options import QuantizerOptions
from vqonnx.quantizers.quark_options import FIXED_OPTIONS
from vqonnx.quantizers.vitis_options import KNOWN
from vqonnx.runtime.session import open_session

RNG = np.random.default_rng(7)
WEIGHTS = {name: RNG.normal(size=(6, 6, 1, 1)).astype(np.float32) / 2 for name in "abc"}
FEEDS = [{"x": RNG.normal(size=(2, 6, 5, 5)).astype(np.float32)} for _ in range(9)]


def chain(between, opset=17):
    """A Conv, something, and two more Convs with nothing between."""
    nodes = f"p = Conv (x, a) h = {between} (p) q = Conv (h, b) y = Conv (q, c)"
    text = f"g (float[N,6,5,5] x) => (float[N,6,5,5] y) {{ {nodes} }}"
    return build(text, WEIGHTS, opset=opset)


def written(path, model, feeds=FEEDS, preset="a8w8", **options):
    how = {"bias_correction": "off", "verify": "checker", "progress": lambda *_: None}
    quantize_static(model, path, feeds, preset=preset, extra_options={"IncludeCLE": False, **options}, **how)
    return onnx.load(path)


def options_of(target="vitis", **extra):
    return QuantizerOptions.of(target=target, extra_options=extra)


TAKEN = {
    "RemoveInputInit": True,
    "FoldBatchNorm": True,
    "ConvertReduceMeanToGlobalAvgPool": True,
    "CalibOptimizeMem": False,
    "CalibWorkerNum": 4,
    "UseGPTQ": False,
    "FastFinetune": {},
    "CLEBalanceMethod": "max",
    "MaxLoopNum": 5,
    "BFPAttributes": None,
}
REFUSED = {
    ("RemoveInputInit", False): "Initializers are never inputs",
    ("FoldRelu", False): "QDQKeepRemovableActivations keeps it",
    ("UseGPTQ", True): "quantize_weight_only",
    ("FastFinetune", (("NumIterations", 10),)): "Nothing is trained",
    ("CalibDataSize", 10): "Pass as many samples",
    ("BFPAttributes", (("block_size", 16),)): "Name a type instead",
    ("CLEBalanceMethod", "sum"): "by their largest weights; leave the option out",
    ("UseRandomData", True): "Pass samples like the real input",
    ("InputNodes", ("Conv_1",)): "nodes_to_exclude",
}


@pytest.mark.parametrize(("key", "value"), TAKEN.items())
def test_what_is_done_anyway_may_be_asked_for(key, value):
    assert options_of(**{key: value}) == options_of()


@pytest.mark.parametrize(("asked", "way_out"), REFUSED.items())
def test_what_is_not_offered_is_refused_with_the_way_out(asked, way_out):
    with pytest.raises(OptionError, match=way_out) as caught:
        options_of(**dict([asked]))
    assert caught.value.option == asked[0]


def test_every_fixed_option_refuses_what_makes_no_sense_or_takes_all():
    assert not FIXED_OPTIONS & KNOWN
    for key in FIXED_OPTIONS:
        try:
            assert options_of(**{key: "no such value"}) == options_of()
        except OptionError as error:
            assert error.option == key  # noqa: PT017 - either is right
        with pytest.raises(OptionError, match="is an option of the targets for AMD's NPU"):
            options_of("cpu-x86-vnni", **{key: None})


@pytest.mark.parametrize(
    ("between", "opset", "key", "default"),
    [
        ("Relu", 17, "RemoveQDQConvRelu", True),
        ("LeakyRelu", 17, "RemoveQDQConvLeakyRelu", True),
        ("Gelu", 20, "RemoveQDQConvGelu", False),
    ],
)
def test_pairs_before_activations_come_and_go(tmp_path, between, opset, key, default):
    model = chain(between, opset)
    counts = [
        Counter(node.op_type for node in written(tmp_path / "m.onnx", model, **option).graph.node)["QuantizeLinear"]
        for option in ({}, {key: True}, {key: False})
    ]
    assert counts[1] + 1 == counts[2]
    assert counts[0] == counts[1 if default else 2]


def test_layers_are_balanced_as_asked(tmp_path):
    def first_weight(**options):
        model = written(tmp_path / "m.onnx", chain("Relu"), IncludeCLE=True, **options)
        found = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
        return found["a_quantized"] * found["a_scale"]

    step = np.abs(WEIGHTS["a"]).max() / 127
    untouched = [first_weight(CLESteps=0), first_weight(CLEWeightThreshold=100.0)]
    for weight in untouched:
        np.testing.assert_allclose(weight, WEIGHTS["a"], atol=step)
    once, often = first_weight(CLESteps=1), first_weight(CLESteps=-1)
    assert np.abs(once - untouched[0]).max() > 4 * step
    assert np.abs(once - often).max() > 0
    np.testing.assert_array_equal(often, first_weight())


def test_clips_of_any_bound_become_relus_on_request():
    text = "g (float[N,6,5,5] x) => (float[N,6,5,5] y) { p = Conv (x, a) y = Clip (p, zero, top) }"
    ends = {"zero": np.array(0, np.float32), "top": np.array(1, np.float32)}
    model = build(text, {"a": WEIGHTS["a"], **ends})
    for key, operator in (("ReplaceClip6Relu", "Clip"), ("ConvertClipToRelu", "Relu")):
        found = plan(model, target="vitis", extra_options={key: True})
        assert {node.op_type for node in found.nodes.values()} == {"Conv", operator}


def test_bfloat16_is_clipped_on_request(tmp_path):
    feed = {"x": np.full((1, 6, 5, 5), 3.4e38, np.float32)}  # beyond bfloat16
    for clip, is_finite in ((False, False), (True, True)):
        model = written(tmp_path / "m.onnx", chain("Relu"), preset="bf16", BF16WithClip=clip)
        assert any(node.op_type == "Clip" for node in model.graph.node) is clip
        index, conv = next(found for found in enumerate(model.graph.node) if found[1].op_type == "Conv")
        del model.graph.node[index:]
        model.graph.output[0].name = conv.input[0]
        assert np.isfinite(open_session(ir.from_proto(model)).run(None, feed)[0]).all() == is_finite


@pytest.mark.parametrize(("key", "axes"), [("ConvertNCHWToNHWC", (0, 2, 3, 1)), ("ConvertNHWCToNCHW", (0, 3, 1, 2))])
def test_the_layout_at_the_border_changes_on_request(tmp_path, key, axes):
    model = chain("Relu")
    if key == "ConvertNHWCToNCHW":
        text = """g (float[N,5,5,6] i) => (float[N,5,5,6] o) {
            x = Transpose <perm = [0, 3, 1, 2]> (i) p = Conv (x, a) h = Relu (p) q = Conv (h, b) y = Conv (q, c)
            o = Transpose <perm = [0, 2, 3, 1]> (y) }"""
        model = build(text, WEIGHTS)
    name, last = model.graph.input[0].name, key == "ConvertNCHWToNHWC"
    feeds = [{name: np.ascontiguousarray(feed["x"].transpose(axes)) if last else feed["x"]} for feed in FEEDS]
    plain = written(tmp_path / "plain.onnx", chain("Relu"))
    turned = written(tmp_path / "turned.onnx", model, feeds, **{key: True})
    sizes = [dim.dim_value for dim in turned.graph.input[0].type.tensor_type.shape.dim]
    assert tuple(sizes[1:]) == feeds[0][name].shape[1:]
    one = open_session(ir.from_proto(plain)).run(None, FEEDS[0])[0]
    other = open_session(ir.from_proto(turned)).run(None, feeds[0])[0]
    np.testing.assert_array_equal(one.transpose(axes) if last else one, other)
