"""The FixNeuron form: the QDQ form of the same plan, with one node for each pair."""

from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest

from models.build import build
from tests.ops.running import extensions
from vqonnx import (
    PowerOfTwoMethod,
    QuantFormat,
    QuantType,
    VitisFixNeuronQuantizer,
    VitisQDQQuantizer,
    VitisQuantFormat,
    plan,
    quantize_static,
)
from vqonnx.core.target import Form
from vqonnx.errors import OptionError, VqonnxError
from vqonnx.runtime.session import open_session

RNG = np.random.default_rng(5)
SHAPES = {"a": (8, 3, 3, 3), "ab": (8,), "c": (8, 8, 3, 3), "cb": (8,), "f": (8, 5), "fb": (5,)}
WEIGHTS = {name: (RNG.normal(size=shape) / 3).astype(np.float32) for name, shape in SHAPES.items()}
FEEDS = [{"x": RNG.normal(size=(2, 3, 14, 14)).astype(np.float32)} for _ in range(12)]
WIDE = {"x": RNG.normal(size=(2, 3, 14, 14)).astype(np.float32) * 9}


def network(element="float"):
    """A residual block, an average whose factor the device brings along, and a dense layer; two outputs."""
    text = f"""g ({element}[N, 3, 14, 14] x) => ({element}[N, 5] y, {element}[N, 8, 14, 14] r) {{
        p = Conv <pads = [1, 1, 1, 1]> (x, a, ab)
        r = Relu (p)
        m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
        s = Conv <pads = [1, 1, 1, 1]> (m, c, cb)
        t = Add (s, m)
        u = Relu (t)
        g = GlobalAveragePool (u)
        v = Flatten (g)
        y = Gemm (v, f, fb)
        }}"""
    dtype = np.float32 if element == "float" else np.float16
    return build(text, {name: array.astype(dtype) for name, array in WEIGHTS.items()})


def quantized(path, form, model=None, **options):
    """What ``quantize_static`` writes and tells, in its shortest way; ``options`` win."""
    extensions()
    how = {"bias_correction": "off", "verify": "checker", "progress": _quiet, **options}
    model = network() if model is None else model
    return quantize_static(model, path, how.pop("feeds", FEEDS), quant_format=form, **how)


def _quiet(*_):
    return None


def outputs(path, feed=WIDE):
    return open_session(path, optimize=False).run(None, feed)


POWERS = {"target": "vitis", "calibrate_method": PowerOfTwoMethod.MinMSE}
OPTIONS = {
    "the CNN form": {},
    "int32 biases": POWERS,
    "16-bit activations": {**POWERS, "activation_type": QuantType.QInt16},
    "32-bit weights": {**POWERS, "weight_type": QuantType.QInt32},
    "4-bit weights, pairs of their own": {
        "target": "vitis-npu-cnn",
        "weight_type": QuantType.QInt4,
        "extra_options": {"DedicatedQDQPair": True},
    },
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_both_forms_compute_the_same_bits(tmp_path, options):
    pairs = {"target": "vitis-npu-cnn", **options}
    reports = [
        quantized(tmp_path / "fixed.onnx", VitisQuantFormat.FixNeuron, **options),
        quantized(tmp_path / "pairs.onnx", QuantFormat.QDQ, **pairs),
    ]
    for one, other in zip(outputs(tmp_path / "fixed.onnx"), outputs(tmp_path / "pairs.onnx"), strict=True):
        np.testing.assert_array_equal(one, other)
    assert reports[0].positions == reports[1].positions
    assert reports[0].quantized == reports[1].quantized


def test_there_is_one_node_a_tensor_and_its_attributes_say_what_its_scale_is(tmp_path):
    path = tmp_path / "fixed.onnx"
    report = quantized(path, "FixNeuron", bias_correction="on", verify=True)
    assert report.verification.outputs[0].sqnr_db > 20
    graph = onnx.load(path).graph
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    fixed = [node for node in graph.node if node.op_type == "FixNeuron"]
    counts = Counter(node.op_type for node in graph.node)
    assert not counts.keys() & {"QuantizeLinear", "DequantizeLinear"}
    assert counts["FixNeuron"] == 6 + 8  # constants; x, r, m, s, u, g, v, y
    for node in fixed:
        width, position = (onnx.helper.get_attribute_value(attribute) for attribute in node.attribute)
        assert [attribute.name for attribute in node.attribute] == ["bit_width", "pos"]  # some read them by place
        assert (node.domain, width) == ("ai.onnx.contrib", b"8")
        scale, zero_point = (constants[name] for name in node.input[1:])
        assert (scale, scale.dtype, zero_point, zero_point.dtype) == (2.0 ** -int(position), np.float32, 0, np.int8)
        if node.input[0] in constants:
            codes = constants[node.input[0]] / scale
            np.testing.assert_array_equal(codes, np.clip(np.rint(codes), -128, 127))
    found = {onnx.helper.get_attribute_value(node.attribute[1]) for node in fixed}
    assert {int(position) for position in found} == set(report.positions.values())


def test_float16_models_are_rounded_in_float32(tmp_path):
    feeds = [{"x": feed["x"].astype(np.float16)} for feed in FEEDS]
    paths = {"fixed": "FixNeuron", "pairs": "QDQ"}
    for name, form in paths.items():
        quantized(tmp_path / name, form, network("float16"), feeds=feeds, target="vitis-npu-cnn")
    one, other = (outputs(tmp_path / name, feeds[0]) for name in paths)
    for a, b in zip(one, other, strict=True):
        assert a.dtype == np.float16
        np.testing.assert_allclose(a, b, atol=1 / 16)  # ONNX Runtime drops a Cast to float16 and back


REFUSED = {
    "has no operators in FixNeuron form; it has QDQ, QOperator": {"target": "cpu-x86-vnni"},
    "activation 'x' would have a scale that is no power of two": {"target": "vitis"},
    "activation 'x' would have type uint8": {"target": "vitis-npu-cnn", "activation_type": QuantType.QUInt8},
    "weight 'a' would have several scales": {**POWERS, "per_channel": True},
    "activation 'x' would have type bfp16": {"preset": "bfp16"},
    "an asymmetric range": {**POWERS, "extra_options": {"ActivationSymmetric": False}},
    "writes the QDQ form, not FixNeuron.* subclass VitisFixNeuronQuantizer": {"quantizer": VitisQDQQuantizer},
    "'x' has scale 0.3.* is to be a power of two, such as 0.5": {
        "extra_options": {"TensorQuantOverrides": {"x": [{"scale": np.float32(0.3), "zero_point": np.int8(0)}]}}
    },
    "'FixNeurons' is no QuantFormat": {"quant_format": "FixNeurons"},
}


@pytest.mark.parametrize(("text", "options"), REFUSED.items(), ids=REFUSED)
def test_what_it_cannot_hold_is_refused(tmp_path, text, options):
    options = {"quant_format": "FixNeuron", **options}
    with pytest.raises(OptionError, match=text):
        quantize_static(network(), tmp_path / "no.onnx", FEEDS, progress=_quiet, **options)
    assert not (tmp_path / "no.onnx").exists()


def test_a_fixed_model_is_known_as_quantized(tmp_path):
    again = partial(quantized, tmp_path / "again.onnx", "FixNeuron")
    quantized(tmp_path / "fixed.onnx", "FixNeuron")
    report = again(tmp_path / "fixed.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "fixed.onnx").read_bytes()
    assert not report.quantized
    with pytest.raises(VqonnxError, match="quantized already: it has 14 x FixNeuron"):
        again(tmp_path / "fixed.onnx", already_quantized="refuse")


@pytest.mark.parametrize("preset", ["xint8", "mx9"])
def test_quantizing_with_a_preset_twice_changes_nothing(tmp_path, preset):
    extensions()
    paths = [tmp_path / "once.onnx", tmp_path / "twice.onnx"]
    for source, path in zip([network(), paths[0]], paths, strict=True):
        quantize_static(source, path, FEEDS, preset=preset, progress=_quiet)
    assert paths[0].read_bytes() == paths[1].read_bytes()


class _Thirds(VitisFixNeuronQuantizer):
    def calculate_quantization_params(self):
        found = super().calculate_quantization_params()
        return found | {"u": replace(found["u"], scale=found["u"].scale / 3)} if self.refinement else found


def test_a_subclass_that_chooses_another_scale_is_told(tmp_path):
    with pytest.raises(OptionError, match=r"takes signed codes with .* 'u' is int8 with zero point"):
        quantized(tmp_path / "no.onnx", "FixNeuron", quantizer=_Thirds)


def test_the_class_and_the_plan_have_the_form():
    assert plan(network(), quant_format=VitisQuantFormat.FixNeuron).form is Form.FIX_NEURON
    ranges = dict.fromkeys("xrmsugvy", (-1.0, 1.0))
    written = VitisFixNeuronQuantizer(network(), tensors_range=ranges).quantize_model()
    assert Counter(node.op_type for node in written.graph.node)["FixNeuron"] == 14
