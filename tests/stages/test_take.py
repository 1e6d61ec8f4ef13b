"""Take leaves the nodes of a graph as they are, but for constants and the factors of a Gemm."""

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, numpy_helper, parser

from vqonnx.graph.io import load
from vqonnx.stages.take import take


def taken(text: str, opset: int = 10, **arguments: int) -> ir.Model:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 11, "other" : 1]> g {text}')
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    proto.graph.initializer.append(weight)
    return take(load(proto), opset=opset, **arguments).model


def test_nothing_is_folded_or_fused_and_the_opset_stays() -> None:
    model = taken("(float[4,4] x) => (float[4,4] y) {t = Transpose (w) i = Identity (x) y = MatMul (i, t)}")
    assert [node.op_type for node in model.graph] == ["Transpose", "Identity", "MatMul"]
    assert model.graph.opset_imports[""] == 11
    assert all(node.name for node in model.graph)


def test_constants_become_initializers_and_factors_go_into_them() -> None:
    model = taken(
        "(float[4,4] x) => (float[4,4] y) {b = Constant <value = float[4] {1, 2, 3, 4}> ()"
        " y = Gemm <alpha = 0.5, beta = 2.0> (x, w, b)}"
    )
    (gemm,) = model.graph
    weight, bias = (value.const_value for value in gemm.inputs[1:] if value is not None)
    assert weight is not None
    assert bias is not None
    np.testing.assert_array_equal(weight.numpy(), np.full((4, 4), 0.5))
    np.testing.assert_array_equal(bias.numpy(), [2, 4, 6, 8])
    assert not gemm.attributes


def test_tensors_without_a_type_get_the_default() -> None:
    text = "(float[4] x) => (float[4] y) {u = other.Op (x) y = Sigmoid (u)}"
    (plain, _), (typed, _) = taken(text).graph, taken(text, default_type=TensorProto.FLOAT16).graph
    assert plain.outputs[0].dtype is None
    assert typed.outputs[0].dtype == ir.DataType.FLOAT16
    assert taken(text, opset=13).graph.opset_imports[""] == 13
