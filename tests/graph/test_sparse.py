import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vqonnx.errors import ModelError
from vqonnx.graph import sparse, walk
from vqonnx.graph.io import load


def sparse_proto(indices: np.ndarray, dims=(3, 4)) -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(np.array([1.5, 2.5], np.float32), "w")
    return helper.make_sparse_tensor(values, numpy_helper.from_array(indices), list(dims))


@pytest.mark.parametrize("indices", [np.array([1, 11]), np.array([[0, 1], [2, 3]])])
@pytest.mark.parametrize("place", ["initializer", "Constant", "subgraph"])
def test_sparse_tensors_become_dense(indices, place):
    tensor = sparse_proto(indices)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 4])
    nodes, initializers = [helper.make_node("Identity", ["w"], ["y"])], []
    if place == "Constant":
        nodes.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=tensor))
    else:
        initializers = [tensor]
    graph = helper.make_graph(nodes, "g", [], [y], sparse_initializer=initializers)
    if place == "subgraph":
        condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
        branch = helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([branch], "main", [condition], [y])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    before = proto.SerializeToString()
    model = load(proto)
    value = walk.values_by_name(model)["w"]
    expected = np.zeros((3, 4), np.float32)
    expected[0, 1], expected[2, 3] = 1.5, 2.5
    np.testing.assert_array_equal(walk.constant(value), expected)
    assert proto.SerializeToString() == before


@pytest.mark.parametrize(
    "indices", [np.array([1, 12]), np.array([-1, 2]), np.array([1, 2, 3]), np.array([[0, 1], [2, 4]])]
)
def test_broken_sparse_indices_are_refused(indices):
    with pytest.raises(ModelError, match=r"do not fit them or point outside"):
        sparse.dense(sparse_proto(indices))


def test_a_sparse_bomb_is_refused():
    with pytest.raises(ModelError, match=r"takes 4,503,599,627,370,496 bytes when made dense"):
        sparse.dense(sparse_proto(np.array([0, 1]), dims=(1 << 25, 1 << 25)))


def test_sparse_external_data_is_refused():
    tensor = sparse_proto(np.array([0, 1]))
    tensor.values.data_location = TensorProto.EXTERNAL
    with pytest.raises(ModelError, match="keeps its data in another file"):
        sparse.dense(tensor)
