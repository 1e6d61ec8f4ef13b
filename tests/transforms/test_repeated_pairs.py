"""A QuantizeLinear behind a DequantizeLinear of the same numbers."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from vqonnx.graph.io import load
from vqonnx.graph.proto import to_proto
from vqonnx.transforms.repeated_pairs import join_pairs

X = np.linspace(-2, 2, 33, dtype=np.float32)


def chain(second_scale=0.01, second_zero=7, kind=np.uint8, codes_out=False):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s1", "z1"], ["q1"]),
        helper.make_node("DequantizeLinear", ["q1", "s1", "z1"], ["d1"]),
        helper.make_node("QuantizeLinear", ["d1", "s2", "z2"], ["q2"]),
        helper.make_node("DequantizeLinear", ["q2", "s2", "z2"], ["d2"]),
        helper.make_node("Add", ["d1", "d2"], ["y"]),
    ]
    constants = {"s1": np.float32(0.01), "z1": np.uint8(7), "s2": np.float32(second_scale), "z2": kind(second_zero)}
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [33])]
    outputs += [helper.make_tensor_value_info("q2", TensorProto.UINT8, [33])] * codes_out
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [33])],
        outputs,
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def find(model, name):
    return next(value for node in model.graph for value in node.outputs if value.name == name)


def test_codes_are_read_where_they_come_back():
    before = chain()
    model = load(before)
    find(model, "d1").meta["known as"] = "x"
    assert join_pairs(model) == 1
    assert find(model, "d2").meta["known as"] == "x"
    after = to_proto(model)
    assert [node.op_type for node in after.graph.node].count("QuantizeLinear") == 1
    onnx.checker.check_model(after)
    for one, other in zip(*(ReferenceEvaluator(each).run(None, {"x": X}) for each in (before, after)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "other", [{"second_scale": 0.02}, {"second_zero": 8}, {"kind": np.int8}, {"codes_out": True}], ids=str
)
def test_other_numbers_stay(other):
    model = load(chain(**other))
    assert join_pairs(model) == 0
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph) == 2
