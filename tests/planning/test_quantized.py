"""What of a model counts as quantized already."""

import onnx_ir as ir
import pytest
from onnx import parser

from vqonnx.errors import UnsupportedModelError
from vqonnx.graph.io import load
from vqonnx.graph.names import ensure_unique_names
from vqonnx.planning.quantized import looks_up_scales, quantized_already, quantized_nodes, refuse_quantized
from vqonnx.planning.weights.layers import find_layers
from vqonnx.targets.registry import get_target

HEADER = '<ir_version: 9, opset_import: ["" : 17, "com.microsoft" : 1]>'


def graph(body, inputs="float[2,3] x", outputs="float[2,3] y", constants=""):
    text = f"{HEADER} g ({inputs}) => ({outputs}) <{constants}> {{ {body} }}"
    model = load(parser.parse_model(text))
    ensure_unique_names(model)
    for node in model.graph:
        for value in node.outputs:
            value.dtype = value.dtype or (ir.DataType.UINT8 if node.op_type == "QuantizeLinear" else ir.DataType.FLOAT)
    return model


SCALE = "float s = {0.1}, uint8 z = {0}"
PAIR = "q{0} = QuantizeLinear({1}, s, z) {0} = DequantizeLinear(q{0}, s, z)"


def reasons(model):
    ops = get_target("cpu-x86-vnni").ops
    found = quantized_already(list(model.graph), ops)
    return {node.op_type: found.get(node.name or "") for node in model.graph if "quantize" not in node.op_type.lower()}


def test_integer_operators_of_every_domain_are_found_in_bodies_too():
    body = """
        c = Constant <value = bool {1}> ()
        y = If (c) <then_branch = t () => (float[2,3] a) { a = com.microsoft.MatMulNBits <N = 3, K = 3> (x, x, x) },
                    else_branch = e () => (float[2,3] b) { b = Relu (x) }>
    """
    assert [node.op_type for node in quantized_nodes(graph(body))] == ["MatMulNBits"]
    for op in (
        "com.microsoft.QLinearAdd",
        "com.microsoft.QGemm",
        "MatMulInteger",
        "DynamicQuantizeLinear",
        "com.amd.quark.MXFixNeuron",
    ):
        assert quantized_nodes(graph(f"y = {op} (x)")), op
    for op in ("MatMul", "com.microsoft.FusedMatMul", "user.QLinearConv"):
        assert not quantized_nodes(graph(f"y = {op} (x)")), op


def test_a_float_model_is_not_refused_and_a_quantized_one_is_counted():
    refuse_quantized(quantized_nodes(graph("y = Relu (x)")))
    body = PAIR.format("d", "x") + " y = Relu (d)"
    with pytest.raises(UnsupportedModelError, match="1 x QuantizeLinear, 1 x DequantizeLinear"):
        refuse_quantized(quantized_nodes(graph(body, constants=SCALE)))


@pytest.mark.parametrize(
    ("body", "outputs", "expected"),
    [
        (
            PAIR.format("d", "x") + " a = Add (d, d) " + PAIR.format("y", "a"),
            "float[2,3] y",
            "already quantized",
        ),
        (PAIR.format("d", "x") + " y = Add (d, d)", "float[2,3] y", None),  # gives float
        (PAIR.format("d", "x") + " a = Add (d, x) " + PAIR.format("y", "a"), "float[2,3] y", None),
        (
            PAIR.format("d", "x") + " a = Add (d, d) " + PAIR.format("y", "a"),
            "float[2,3] y, float[2,3] a",
            None,
        ),
    ],
)
def test_a_node_between_pairs_needs_nothing_more(body, outputs, expected):
    assert reasons(graph(body, outputs=outputs, constants=SCALE)) == {"Add": expected}


FIX = '{0} = ai.onnx.contrib.FixNeuron <bit_width = "8"> ({1}, s, z)'
DONE = "already quantized"


@pytest.mark.parametrize("pair", [PAIR, FIX, "{0} = com.amd.quark.BFPQuantizeDequantize ({1})"])
@pytest.mark.parametrize(
    ("middle", "expected"),
    [
        ("m = Add (d, d) r = Relu (m)", {"Add": DONE, "Relu": DONE}),  # the device computes both at once
        ("m = GlobalAveragePool (d) r = Mul (m, k)", {"GlobalAveragePool": DONE, "Mul": DONE}),
        ("m = Add (d, x) r = Relu (m)", {"Add": None, "Relu": None}),
        ("m = Add (d, d) r = Sub (m, d)", {"Add": None, "Sub": None}),
    ],
)
def test_what_a_device_computes_at_once_needs_one_pair(pair, middle, expected):
    text = f"{pair.format('d', 'x')} {middle} {pair.format('e', 'r')} y = Identity (e)"
    model = graph(text, constants=SCALE + ", float k = {1.005}")
    found = quantized_already(list(model.graph), get_target("vitis-npu-cnn").ops)
    assert {node.op_type: found.get(node.name) for node in model.graph if node.op_type in expected} == expected


HALF = "{0}1 = Cast <to = 1> ({1}) " + FIX.format("{0}2", "{0}1") + " {0} = Cast <to = 10> ({0}2)"


def test_float16_values_are_rounded_between_casts():
    text = f"{HALF.format('d', 'x')} {HALF.format('w', 'k')} a = Mul (d, w) {HALF.format('e', 'a')} y = Identity (e)"
    model = graph(text, "float16[2,3] x", "float16[2,3] y", SCALE + ", float16 k = {15872}")
    found = quantized_already(list(model.graph), get_target("vitis-npu-cnn").ops)
    assert {node.op_type: found.get(node.name) for node in model.graph if node.op_type != "Cast"} == {
        "FixNeuron": DONE, "Mul": DONE, "Identity": None,
    }  # fmt: skip


@pytest.mark.parametrize("inputs", ["m, b", "b, m"])
def test_the_bias_of_a_quantized_matmul_is_done_too(inputs):
    constants = SCALE + ", int8[3,3] w = {1,2,3,4,5,6,7,8,9}, int8 zw = {0}, float[3] b = {1,2,3}"
    text = f"{PAIR.format('d', 'x')} dw = DequantizeLinear(w, s, zw) m = MatMul (d, dw) a = Add ({inputs}) "
    model = graph(text + PAIR.format("y", "a"), constants=constants)
    assert reasons(model) == {"MatMul": DONE, "Add": DONE}


def test_a_product_with_stored_codes_says_what_is_missing():
    constants = SCALE + ", int8[3,3] w = {1,2,3,4,5,6,7,8,9}, int8 zw = {0}"
    weight = "dw = DequantizeLinear(w, s, zw) "
    given = graph(PAIR.format("d", "x") + weight + "y = MatMul (d, dw)", constants=constants)
    assert reasons(given) == {"MatMul": "already quantized"}
    assert reasons(graph(weight + "y = MatMul (x, dw)", constants=constants)) == {
        "MatMul": "its weight is quantized already, and its input is not"
    }


@pytest.mark.parametrize(("factor", "expected"), [("d", True), ("x", False)])
def test_a_table_of_scales_is_no_table(factor, expected):
    constants = SCALE + ", int64[2] i = {0, 1}, float[2,1] t = {0.5, 2.0}"
    body = PAIR.format("d", "x") + f" g = Gather (t, i) y = Mul ({factor}, g)"
    model = graph(body, constants=constants)
    gather = next(node for node in model.graph if node.op_type == "Gather")
    assert looks_up_scales(gather) is expected
    assert (
        any(skip.node == gather.name and "looks up scales" in skip.reason for skip in find_layers(model)[1]) is expected
    )
