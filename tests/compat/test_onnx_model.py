"""The peer's class over a ModelProto."""

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from vqonnx.compat.onnx_model import ONNXModel
from vqonnx.errors import ModelError, OptionError

node = helper.make_node


def info(name, shape=None, element=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, element, shape)


def model_of(nodes, inputs, outputs, constants=(), opset=17):
    initializers = [
        numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in dict(constants).items()
    ]
    graph = helper.make_graph(
        nodes, "graph", [info(name) for name in inputs], [info(name) for name in outputs], initializers
    )
    return ONNXModel(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]))


def ops(model):
    return [one.op_type for one in model.nodes()]


def run(model, **feeds):
    return ReferenceEvaluator(model.model).run(None, feeds)


@given(st.permutations(range(6)))
def test_any_order_is_sorted(order):
    nodes = [
        node("Neg", ["x"], ["a"]),
        node("Abs", ["x"], ["b"]),
        node("Add", ["a", "b"], ["c"]),
        node("Constant", [], ["k"], value_float=2.0),
        node("Mul", ["c", "k"], ["d"]),
        node("Clip", ["d", "", "k"], ["y"]),
    ]
    model = model_of([nodes[index] for index in order], ["x"], ["y"])
    model.topological_sort()
    made = {"x", ""}
    for one in model.nodes():
        assert made.issuperset(one.input)
        made.update(one.output)
    assert sorted(ops(model)) == sorted(one.op_type for one in nodes)


def branching():
    """A branch reads h, which is made behind the If."""
    then = helper.make_graph([node("Neg", ["h"], ["t"]), node("Mul", ["t", "used"], ["u"])], "then", [], [info("u")])
    other = helper.make_graph([node("Identity", ["h"], ["e"])], "else", [], [info("e")])
    nodes = [node("If", ["condition"], ["y"], then_branch=then, else_branch=other), node("Relu", ["x"], ["h"])]
    model = model_of(nodes, ["x"], ["y"], {"used": 1, "unused": 2})
    model.graph().input.append(info("condition", [], TensorProto.BOOL))
    model.graph().input.append(info("unused"))
    return model


def test_what_bodies_capture_counts():
    model = branching()
    model.topological_sort()
    assert ops(model) == ["Relu", "If"]
    graph, unmade = model.clean_initializers()
    assert graph is model.graph()
    assert unmade == set()
    assert model.get_initializer_name_set() == {"used"}
    assert [value.name for value in graph.input] == ["x", "condition"]
    model = branching()
    model.remove_unused_constant()
    assert model.get_initializer_name_set() == {"used"}


def test_a_cycle_is_refused():
    model = model_of([node("Neg", ["b"], ["a"], "first"), node("Neg", ["a"], ["b"])], [], ["b"])
    with pytest.raises(ModelError, match="cycle through node 'first'"):
        model.topological_sort()


WEIGHT = np.arange(6).reshape(2, 3)
X3, X2 = np.float32([[1, -2, 3]]), np.float32([[1, -2]])


@pytest.mark.parametrize("bias", [[], ["bias"]])
@pytest.mark.parametrize("transposed", [0, 1])
def test_gemms_become_products_with_the_same_result(bias, transposed):
    shape = 2 if transposed else 3
    model = model_of(
        [node("Gemm", ["x", "w", *bias], ["y"], "gemm", transB=transposed)],
        ["x"],
        ["y"],
        {"w": WEIGHT, "bias": np.ones(shape)},
    )
    x = X3 if transposed else X2
    expected = run(model, x=x)
    model.replace_gemm_with_matmul()
    assert ops(model) == (["MatMul", "Add"] if bias else ["MatMul"])
    assert model.nodes()[0].name == "gemm_MatMul"
    np.testing.assert_array_equal(run(model, x=x)[0], expected[0])


def test_a_weight_with_other_readers_is_not_changed_for_them():
    nodes = [
        node("Gemm", ["x", "w"], ["a"], transB=1),
        node("Gemm", ["x", "w"], ["b"], transB=1),
        node("MatMul", ["a", "w"], ["c"]),
        node("Gemm", ["x", "w"], ["d"], alpha=0.5, transB=1),
    ]
    model = model_of(nodes, ["x"], ["a", "b", "c", "d"], {"w": WEIGHT})
    expected = run(model, x=X3)
    model.replace_gemm_with_matmul()
    assert ops(model) == ["MatMul", "MatMul", "MatMul", "Gemm"]
    assert model.get_initializer_name_set() == {"w", "w_Transposed"}
    for found, wanted in zip(run(model, x=X3), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_fed_weight_is_transposed_under_names_of_their_own():
    model = model_of([node("Gemm", ["x", "w"], [name], transB=1) for name in "ab"], ["x", "w"], ["a", "b"])
    expected = run(model, x=X3, w=WEIGHT.astype(np.float32))
    model.replace_gemm_with_matmul()
    assert ops(model) == ["Transpose", "MatMul"] * 2
    np.testing.assert_array_equal(run(model, x=X3, w=WEIGHT.astype(np.float32)), expected)


def test_look_ups_and_edits():
    model = model_of([node("Neg", ["x"], ["a"], "n_3"), node("Add", ["a", "c"], ["y"], "n_x")], ["x"], ["y"], {"c": 1})
    first, second = model.nodes()
    assert model.get_children(first) == [second]
    assert model.get_parents(second) == [first]
    assert model.get_parent(second, 0) == first
    assert model.get_parent(second, 1) is model.get_parent(second, 7) is None
    assert model.get_largest_node_name_suffix("n_") == 3
    assert model.get_largest_initializer_name_suffix("c") == -1
    assert model.get_constant_value("c") == 1
    assert model.get_constant_value("a") is None
    assert model.is_graph_output("y")
    assert not model.is_graph_input("y")
    assert model.get_non_initializer_inputs() == {"x"}
    assert model.get_tensor_type("x").elem_type == TensorProto.FLOAT
    model.replace_input_of_nodes("a", "x", {"n_x"})
    model.remove_node(copied(first))
    model.remove_nodes([first])
    assert ops(model) == ["Add"]
    model.set_opset_import("", 18)
    model.set_opset_import("com.microsoft", 1)
    assert [(opset.domain, opset.version) for opset in model.opset_import()] == [("", 18), ("com.microsoft", 1)]
    np.testing.assert_array_equal(run(model, x=np.float32([1]))[0], [2])


def copied(original):
    copy = onnx.NodeProto()
    copy.CopyFrom(original)
    return copy


def test_initializers_are_added_once_and_checked():
    model = model_of([node("Neg", ["x"], ["y"])], ["x"], ["y"])
    model.add_initializer(numpy_helper.from_array(np.float32(1), "c"))
    model.add_initializer(numpy_helper.from_array(np.float32(2), "c"))
    assert [numpy_helper.to_array(tensor) for tensor in model.initializer()] == [1]
    with pytest.raises(OptionError):
        model.initializer_extend([])
    nan = helper.make_tensor("nan", TensorProto.FLOAT8E4M3FN, [2], b"\x01\x7f", raw=True)
    with pytest.raises(ModelError, match="'nan' holds NaN"):
        model.add_initializer(nan)


def test_saving_again_does_not_grow_the_data_file(tmp_path):
    model = model_of([node("Add", ["x", "w"], ["y"])], ["x"], ["y"], {"w": np.zeros(4096)})
    sizes = []
    for _ in range(2):
        model.save_model_to_file(tmp_path / "model.onnx", use_external_data_format=True)
        sizes.append(sum(file.stat().st_size for file in tmp_path.iterdir()))
    assert sizes[0] == sizes[1] < 20_000
    np.testing.assert_array_equal(
        run(ONNXModel(onnx.load(tmp_path / "model.onnx")), x=np.float32([3]))[0], np.full(4096, 3)
    )
