"""Rounded tensors: what the nodes compute in ONNX Runtime is what the kernels give, bit for bit."""

from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from tests.kernels.formats.formats import assert_same_bits, spread_out
from tests.ops.running import extensions
from vqonnx.core.block_formats import BFP16, BLOCK_FORMATS, MXFP4_E2M1
from vqonnx.core.custom_ops import DOMAIN
from vqonnx.core.qtype import BFLOAT16, FLOAT16
from vqonnx.emitters.block_float import BlockForm, CastForm, emit_rounded
from vqonnx.errors import UnsupportedModelError
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.proto import to_proto
from vqonnx.graph.walk import values_by_name
from vqonnx.kernels.formats.blockfloat import round_to_block_float
from vqonnx.runtime.session import open_session

FORMS = {
    **{name: BlockForm(fmt, 1) for name, fmt in BLOCK_FORMATS.items()},
    "bfloat16": CastForm(BFLOAT16),
    "bfloat16 saturating": CastForm(BFLOAT16, saturate=True),
    "float16": CastForm(FLOAT16),
    "float16 saturating": CastForm(FLOAT16, saturate=True),
}
ALL = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def parsed(body, x="float[N,40] x", y="float[N,40] y", opset=21, constants=None):
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> g ({x}) => ({y}) {{ {body} }}')
    for name, array in (constants or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def emit(model, name, form, uses=None):
    return emit_rounded(model, NameAllocator.of(model), values_by_name(model)[name], form, uses=uses)


def runs(model, **feeds):
    if DOMAIN in model.graph.opset_imports:
        extensions()
    onnx.checker.check_model(to_proto(model), full_check=True)
    return open_session(model).run(None, feeds)[0]


@ALL
def test_an_activation_is_rounded_by_its_nodes(rng, form):
    model = parsed("y = Identity (x)")
    emit(model, "x", form)
    x = spread_out(rng, (9, 40))
    assert_same_bits(runs(model, x=x), form.rounded(x))


@ALL
def test_a_constant_is_rounded_by_its_node(rng, form):
    w = rng.normal(size=(3, 40)).astype(np.float32)
    model = parsed("y = Add (x, w)", constants={"w": w})
    emit(model, "w", form)
    x = np.zeros((3, 40), np.float32)
    np.testing.assert_array_equal(runs(model, x=x), form.rounded(w))


@ALL
def test_a_float16_tensor_is_rounded_in_float32(rng, form):
    model = parsed("y = Identity (x)", "float16[N,40] x", "float16[N,40] y")
    emit(model, "x", form)
    x = rng.normal(size=(3, 40)).astype(np.float16)
    y = runs(model, x=x)
    assert y.dtype == np.float16
    np.testing.assert_array_equal(y, form.rounded(x.astype(np.float32)).astype(np.float16))


def test_all_readers_or_the_named_ones_read_the_rounded_value(rng):
    body = "a = Relu (x) b = Neg (x) y = Add (a, b)"
    model = parsed(body)
    emit(model, "x", BlockForm(BFP16, 1))
    x = rng.normal(size=(2, 40)).astype(np.float32)
    r = round_to_block_float(x, BFP16, 1)
    np.testing.assert_array_equal(runs(model, x=x), np.maximum(r, 0) - r)
    model = parsed(body)
    emit(model, "x", BlockForm(BFP16, 1), uses=[(model.graph[1], 0)])
    np.testing.assert_array_equal(runs(model, x=x), np.maximum(x, 0) - r)


def test_a_graph_output_keeps_its_name_and_types_are_declared():
    model = parsed("h = Relu (x) y = Neg (h)", y="float[N,40] y, float[N,40] h")
    rounded = emit(model, "h", BlockForm(MXFP4_E2M1, -1))
    assert [output.name for output in model.graph.outputs] == ["y", "h"]
    assert rounded is model.graph.outputs[1]
    assert rounded.dtype == ir.DataType.FLOAT
    assert rounded.shape == ["N", 40]
    assert model.graph.opset_imports[DOMAIN] == 1


def test_a_node_has_every_attribute():
    model = parsed("y = Identity (x)")
    emit(model, "x", BlockForm(replace(BFP16, block_size=16), 1))
    attributes = {name: attribute.value for name, attribute in model.graph[0].attributes.items()}
    assert len(attributes) == 9
    assert attributes["block_size"] == 16


def test_what_cannot_be_rounded_is_refused():
    with pytest.raises(UnsupportedModelError, match="'x' is of type INT64"):
        emit(parsed("y = Cast <to = 1> (x)", "int64[N,40] x"), "x", CastForm(BFLOAT16))
    with pytest.raises(UnsupportedModelError, match="takes opset 13, and the model has 11"):
        emit(parsed("y = Identity (x)", opset=11), "x", CastForm(BFLOAT16))
    emit(parsed("y = Identity (x)", opset=11), "x", FORMS["mx9"])


def test_a_value_inside_a_branch_is_rounded_there(rng):
    model = parsed(
        "y = If (c) <then_branch = t () => (float[N,40] a) { h = Relu (x) a = Neg (h) }, "
        "else_branch = e () => (float[N,40] b) { b = Identity (x) }>",
        "bool c, float[N,40] x",
    )
    values_by_name(model)["h"].dtype = ir.DataType.FLOAT
    emit(model, "h", BlockForm(BFP16, 1))
    emit(model, "h", CastForm(BFLOAT16, saturate=True))
    x = np.abs(rng.normal(size=(2, 40))).astype(np.float32)
    expected = -round_to_block_float(CastForm(BFLOAT16).rounded(x), BFP16, 1)
    assert_same_bits(runs(model, c=np.array(True), x=x), expected)
    assert_same_bits(runs(model, c=np.array(False), x=x), x)
