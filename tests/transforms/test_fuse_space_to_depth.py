"""SpaceToDepth that is written out."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from vqonnx.graph.inference import infer_missing
from vqonnx.graph.io import load
from vqonnx.graph.proto import to_proto
from vqonnx.transforms.fuse_space_to_depth import fuse_space_to_depths

ORDERS = ((0, 1, 2, 4, 3, 5), (0, 1, 3, 2), (0, 2, 1, 3, 4))


def written_out(sizes, block, orders=ORDERS, blocks=None):
    """As early YOLO models have it; ``blocks`` are the sides that the first Reshape has instead of ``block``."""
    n, c, rows, columns = sizes
    first = blocks or (block, block)
    shapes = (
        (n, c, rows * block // first[0], first[0], columns * block // first[1], first[1]),
        (n, c, rows * columns, block * block),
        (n, c, block * block, rows, columns),
        (n, block * block * c, rows, columns),
    )
    nodes, value = [], "x"
    for number in range(len(shapes)):
        last = number == len(shapes) - 1
        nodes.append(helper.make_node("Reshape", [value, f"shape{number}"], ["y" if last else f"r{number}"]))
        if not last:
            nodes.append(helper.make_node("Transpose", [f"r{number}"], [f"t{number}"], perm=orders[number]))
        value = f"t{number}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [n, c, rows * block, columns * block])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, shapes[-1])
    constants = [numpy_helper.from_array(np.array(shape), f"shape{i}") for i, shape in enumerate(shapes)]
    graph = helper.make_graph(nodes, "graph", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def fused(proto):
    model = load(proto)
    infer_missing(model)
    return fuse_space_to_depths(model), to_proto(model)


@given(st.tuples(*[st.integers(1, 3)] * 4), st.integers(2, 3))
def test_one_node_gives_the_same(sizes, block):
    before = written_out(sizes, block)
    count, after = fused(before)
    assert count == 1
    assert [node.op_type for node in after.graph.node] == ["SpaceToDepth"]
    shape = (sizes[0], sizes[1], sizes[2] * block, sizes[3] * block)
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    one, other = (ReferenceEvaluator(each).run(None, {"x": x})[0] for each in (before, after))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "proto",
    [
        written_out((1, 2, 2, 2), 2, orders=((0, 1, 4, 2, 3, 5), *ORDERS[1:])),
        written_out((1, 2, 2, 2), 2, orders=(*ORDERS[:2], (0, 1, 2, 3, 4))),
        written_out((1, 2, 2, 2), 2, blocks=(4, 1)),
    ],
)
def test_other_orders_and_blocks_stay(proto):
    count, after = fused(proto)
    assert count == 0
    assert [node.op_type for node in after.graph.node] == [node.op_type for node in proto.graph.node]


def test_a_value_that_is_read_elsewhere_keeps_the_nodes():
    proto = written_out((1, 2, 2, 2), 2)
    proto.graph.output.append(onnx.ValueInfoProto(name="t1"))
    assert fused(proto)[0] == 0
