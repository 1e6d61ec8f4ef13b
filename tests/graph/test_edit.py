import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from vqonnx.errors import ModelError
from vqonnx.graph import edit, walk
from vqonnx.graph.io import load
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.proto import to_proto
from vqonnx.runtime.session import open_session

X = np.array([-1, 2], np.float32)
CAPTURED = """<ir_version: 10, opset_import: ["": 17]>
g (bool c, float[2] x) => (float[2] a, float[2] y) <float[2] w = {1.0, 2.0}> {
  a = Add (x, w)
  y = If (c) <
    then_branch = t () => (float[2] p) { p = Neg (a) },
    else_branch = e () => (float[2] q) { q = Abs (a) }>
}
"""


@pytest.fixture
def model() -> ir.Model:
    return load(onnx.parser.parse_model(CAPTURED))


@pytest.fixture
def names(model) -> NameAllocator:
    return NameAllocator.of(model)


def outputs(model: ir.Model) -> list[np.ndarray]:
    onnx.checker.check_model(to_proto(model), full_check=True)
    return open_session(model).run(None, {"c": np.array(True), "x": X})


def test_made_nodes_have_free_names(model, names):
    a = walk.values_by_name(model)["a"]
    node = edit.make_node(names, "com.microsoft::Gelu", [a, None], {"k": 1, "f": 0.5}, name="a", outputs=["y", "z"])
    assert (node.domain, node.op_type, node.name) == ("com.microsoft", "Gelu", "a_1")
    assert [value.name for value in node.outputs] == ["y_1", "z"]
    assert (node.attributes.get_int("k"), node.attributes.get_float("f")) == (1, 0.5)
    plain = edit.make_node(names, "Relu", [a])
    assert (plain.name, plain.outputs[0].name) == ("Relu", "Relu_output")


def test_initializers_keep_the_array(model):
    array = np.ones((2, 3), np.int8)
    value = edit.add_initializer(model.graph, "new", array)
    assert walk.constant(value) is array
    assert (value.dtype, value.shape) == (ir.DataType.INT8, [2, 3])
    with pytest.raises(ModelError, match="cannot add initializer 'new' to graph 'g': the name is taken"):
        edit.add_initializer(model.graph, "new", array)


def test_replacing_uses_reaches_bodies_and_outputs(model, names):
    a = walk.values_by_name(model)["a"]
    double = edit.make_node(names, "Add", [a, a])
    edit.insert_after_value(a, double)
    edit.replace_uses(a, double.outputs[0], names, keep={double})
    np.testing.assert_array_equal(outputs(model), [[0, 8], [0, -8]])
    assert [value.name for value in model.graph.outputs] == ["a", "y"]
    assert a.name == "a_replaced"
    assert model.graph.outputs[0].dtype == ir.DataType.FLOAT


@pytest.mark.parametrize("other", ["x", "w", "y"])
def test_an_output_replaced_by_what_cannot_take_its_name(model, names, other):
    a, new = (walk.values_by_name(model)[name] for name in ("a", other))
    for node, index in a.uses():
        node.replace_input_with(index, model.graph.inputs[1])
    edit.replace_uses(a, new, names)
    found = outputs(model)
    expected = {"x": X, "w": [1, 2], "y": found[1]}[other]
    np.testing.assert_array_equal(found[0], expected)
    assert [value.name for value in model.graph.outputs] == ["a", "y"]


def test_an_output_that_is_an_input_keeps_its_place(model, names):
    x, a = (walk.values_by_name(model)[name] for name in "xa")
    model.graph.outputs.append(x)
    with pytest.raises(ModelError, match="cannot replace graph output 'x': it is also an input or initializer"):
        edit.replace_uses(x, a, names)


def test_nodes_are_inserted_where_told(model, names):
    add = model.graph[0]
    x, w = walk.values_by_name(model)["x"], walk.values_by_name(model)["w"]
    made = [edit.make_node(names, op, [x]) for op in ("Relu", "Neg", "Abs", "Exp", "Sin")]
    edit.insert_before(add, made[0])
    edit.insert_after(add, made[1])
    edit.insert_after_value(x, made[2])
    edit.insert_after_value(w, made[3])
    edit.insert_after_value(add.outputs[0], made[4])
    assert [node.op_type for node in model.graph] == ["Exp", "Abs", "Relu", "Add", "Sin", "Neg", "If"]


def test_inserting_into_an_empty_graph(names):
    graph = ir.Graph([], [], nodes=[], name="empty")
    made = [edit.make_node(names, op, []) for op in "AB"]
    edit.insert_first(graph, made)
    assert list(graph) == made


def test_inserting_outside_of_graphs_is_refused(names):
    loose = edit.make_node(names, "Relu", [ir.Value(name="v")], name="loose")
    with pytest.raises(ModelError, match="cannot insert at node 'loose': it is in no graph") as caught:
        edit.insert_before(loose, [])
    assert caught.value.node == "loose"
    with pytest.raises(ModelError, match="cannot insert after value 'v': it is in no graph"):
        edit.insert_after_value(ir.Value(name="v"), [])


def test_a_read_node_is_not_removed(model):
    add, branch = model.graph
    add.name = "add"
    with pytest.raises(ModelError, match=r"cannot remove node 'add' \(Add\): its outputs are still read"):
        edit.remove_node(add)
    model.graph.outputs.clear()
    edit.remove_node(branch)
    edit.remove_node(add)  # its only readers were in the bodies of the first
    assert len(model.graph) == 0


def test_dead_parts_are_removed(model, names):
    x = walk.values_by_name(model)["x"]
    first = edit.make_node(names, "Relu", [x])
    second = edit.make_node(names, "Neg", first.outputs)
    edit.insert_first(model.graph, [first, second])
    edit.add_initializer(model.graph, "unread", np.ones(2, np.float32))
    expected = outputs(model)
    assert edit.remove_dead(model) == 2
    assert list(model.graph.initializers) == ["w"]
    np.testing.assert_array_equal(outputs(model), expected)
    assert edit.remove_dead(model) == 0


def test_what_only_a_dead_body_read_is_dead(model):
    model.graph.outputs.clear()
    assert edit.remove_dead(model) == 2
    assert not model.graph.initializers


def test_dead_nodes_in_bodies_are_removed(model, names):
    then, _ = walk.subgraphs(model.graph[1])
    a = walk.values_by_name(model)["a"]
    edit.insert_first(then, edit.make_node(names, "Relu", [a]))
    assert edit.remove_dead(model) == 1
    assert [node.op_type for node in then] == ["Neg"]


def test_editing_is_linear(count_calls):
    def wrap_chain(count: int) -> None:
        """Put an Identity behind every value of a chain, and clear the chain away."""
        steps = " ".join(f"v{i + 1} = Relu (v{i})" for i in range(count))
        text = f'<ir_version: 8, opset_import: ["": 17]> g (float[2] v0) => (float[2] v{count}) {{ {steps} }}'
        model = load(onnx.parser.parse_model(text))
        names = NameAllocator.of(model)
        for value in list(walk.values(model)):
            node = edit.make_node(names, "Identity", [value])
            edit.insert_after_value(value, node)
            edit.replace_uses(value, node.outputs[0], names, keep={node})
        assert len(model.graph) == 2 * count + 1
        model.graph.outputs[:] = [model.graph.inputs[0]]
        assert edit.remove_dead(model) == 2 * count + 1

    assert count_calls(wrap_chain, 800) < 4.4 * count_calls(wrap_chain, 200)


def test_replacing_a_node_keeps_name_type_and_readers(model, names):
    add = model.graph[0]
    x, w = add.inputs
    new = [edit.make_node(names, "Neg", [w]), edit.make_node(names, "Sub", [x])]
    new[1].resize_inputs(2)
    new[1].replace_input_with(1, new[0].outputs[0])
    name, kind = add.name, add.outputs[0].type
    edit.replace_node(add, new, names)
    np.testing.assert_array_equal(outputs(model), [[0, 4], [0, -4]])
    assert [node.op_type for node in model.graph] == ["Neg", "Sub", "If"]
    assert (new[0].name, new[1].outputs[0].name, new[1].outputs[0].type) == (name, "a", kind)


def test_nodes_that_read_each_other_go_together(model, names):
    add = model.graph[0]
    neg = edit.make_node(names, "Neg", [add.outputs[0]])
    twice = edit.make_node(names, "Add", [neg.outputs[0], neg.outputs[0]])
    edit.insert_after(add, [neg, twice])
    with pytest.raises(ModelError, match="its outputs are still read"):
        edit.remove_nodes([neg])
    with pytest.raises(ModelError, match="its outputs are still read"):
        edit.remove_nodes([add, neg, twice])
    assert neg.inputs[0] is add.outputs[0]
    edit.remove_nodes([neg, twice])
    assert [node.op_type for node in model.graph] == ["Add", "If"]
    assert {node.op_type for node in add.outputs[0].consumers()} == {"Neg", "Abs"}
