"""Names that trip up rewriters: missing, clashing, listed twice, or shared by input and output."""

import numpy as np
import onnx

from models.build import Weights, build, list_as_inputs
from models.registry import Case, register


def _two_layers() -> tuple[str, Weights]:
    weights = Weights(80)
    weights.conv("c", 4, 3, 3, 3)
    weights.conv("d", 4, 4, 1, 1)
    text = """two_layers (float[N, 3, 6, 6] x) => (float[N, 4, 4, 4] y) {
        c = Conv (x, c_w, c_b)
        r = Relu (c)
        y = Conv (r, d_w, d_b)
    }"""
    return text, weights


def unnamed_nodes() -> onnx.ModelProto:
    """Nodes without names, as the text syntax and some converters leave them."""
    text, weights = _two_layers()
    return build(text, weights.arrays, named=False)


def inputs_listed() -> onnx.ModelProto:
    """Initializers that are also listed as inputs, as IR version 3 demanded."""
    text, weights = _two_layers()
    model = build(text, weights.arrays)
    list_as_inputs(model.graph)
    return model


def taken_names() -> onnx.ModelProto:
    """The user's own values have the names that quantizers like to make up."""
    weights = Weights(81)
    weights.linear("a", 8, 8)
    weights.arrays |= {
        "x_scale": np.array([0.5], np.float32),
        "x_zero_point": np.array([2], np.float32),
        "a_w_quantized": np.array([1.5], np.float32),
    }
    text = """taken_names (float[N, 8] x) => (float[N, 8] y) {
        x_QuantizeLinear_Output = Mul (x, x_scale)
        x_DequantizeLinear_Output = Add (x_QuantizeLinear_Output, x_zero_point)
        m = MatMul (x_DequantizeLinear_Output, a_w)
        a_w_scale = Add (m, a_b)
        y = Mul (a_w_scale, a_w_quantized)
    }"""
    return build(text, weights.arrays)


def inner_output() -> onnx.ModelProto:
    """A value that is an output of the graph and is read again inside."""
    weights = Weights(82)
    weights.linear("a", 8, 8)
    weights.linear("b", 8, 4)
    text = """inner_output (float[N, 8] x) => (float[N, 8] h, float[N, 4] y) {
        m = MatMul (x, a_w)
        h = Add (m, a_b)
        r = Relu (h)
        n = MatMul (r, b_w)
        y = Add (n, b_b)
    }"""
    return build(text, weights.arrays)


def passed_through() -> onnx.ModelProto:
    """Outputs that are an initializer and, behind Identity, the input itself."""
    weights = Weights(83)
    weights.normal("w", 8, 8)
    text = """passed_through (float[N, 8] x) => (float[N, 8] y, float[8, 8] w, float[N, 8] same) {
        y = MatMul (x, w)
        same = Identity (x)
    }"""
    return build(text, weights.arrays)


def annotated() -> onnx.ModelProto:
    """Quantization annotations, metadata and doc strings, all of which must survive."""
    text, weights = _two_layers()
    model = build(text, weights.arrays | {"noted_scale": np.array(0.1, np.float32)})
    model.doc_string = "kept"
    model.metadata_props.add(key="labels", value="a\nb")
    note = model.graph.quantization_annotation.add(tensor_name="r")
    note.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="noted_scale")
    return model


register(Case(name="naming/unnamed", build=unnamed_nodes, what="nodes without names"))
register(Case(name="naming/listed", build=inputs_listed, what="initializers listed as inputs"))
register(Case(name="naming/taken", build=taken_names, what="values called x_scale and the like"))
register(Case(name="naming/inner_output", build=inner_output, what="an output that is read inside"))
register(Case(name="naming/passed_through", build=passed_through, what="an initializer as output"))
register(Case(name="naming/annotated", build=annotated, what="annotations and metadata"))
