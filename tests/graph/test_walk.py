import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from models.build import build
from vqonnx.graph import walk
from vqonnx.graph.io import load

NESTED = """<ir_version: 10, opset_import: ["": 17, "my": 1]>
g (bool c, float[2] x) => (float[2] y) <float[2] w = {1.0, 2.0}> {
  a = Add (x, w)
  y = If (c) <
    then_branch = t () => (float[2] p) <float[2] k = {3.0, 4.0}> { p = Mul (a, k) },
    else_branch = e () => (float[2] q) { q = my.half (a) }>
}
<domain: "my", opset_import: ["": 17]>
half (v) => (r) { two = Constant <value_float = 2.0> () r = Div (v, two) }
"""


@pytest.fixture
def nested() -> ir.Model:
    return load(onnx.parser.parse_model(NESTED))


def test_every_graph_node_and_value_is_visited_once(nested):
    assert [graph.name for graph in walk.graphs(nested)][:3] == ["g", "t", "e"]
    assert [node.op_type for node in walk.nodes(nested)] == ["Add", "If", "Mul", "half", "Constant", "Div"]
    names = [value.name for value in walk.values(nested)]
    assert names == ["c", "x", "w", "a", "y", "k", "p", "q", "v", "two", "r"]
    assert set(walk.values_by_name(nested)) == set(names)


def test_absent_outputs_are_no_values():
    text = '<ir_version: 8, opset_import: ["": 17]> g (float[4] x) => (int64[4] i) { , i = TopK (x, x) }'
    proto = onnx.parser.parse_model(text.replace("{ , i", "{ v, i"))
    proto.graph.node[0].output[0] = ""
    assert [value.name for value in walk.values(load(proto))] == ["x", "i"]


def test_nodes_are_found_by_name_and_the_first_wins(nested):
    add, branch = nested.graph
    add.name = branch.name = "n"
    assert walk.nodes_by_name(nested)["n"] is add


def test_consumers_include_captured_reads(nested):
    a = walk.values_by_name(nested)["a"]
    assert [node.op_type for node in walk.consumers(a)] == ["Mul", "half"]


def constant_of(text: str, **changes: object) -> np.ndarray | None:
    model = load(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g () => (float[] y) {{ {text} }}'))
    return walk.constant(model.graph.outputs[0])


@pytest.mark.parametrize(
    ("attribute", "expected"),
    [
        ("value = float[2] {1.0, 2.0}", np.array([1, 2], np.float32)),
        ("value_float = 2.5", np.array(2.5, np.float32)),
        ("value_int = 3", np.array(3, np.int64)),
        ("value_floats = [1.5, 2.5]", np.array([1.5, 2.5], np.float32)),
        ("value_ints = [1, 2]", np.array([1, 2], np.int64)),
    ],
)
def test_constant_nodes_of_every_kind(attribute, expected):
    found = constant_of(f"y = Constant <{attribute}> ()")
    np.testing.assert_array_equal(found, expected)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)


def test_strings_and_computed_values_are_no_constants():
    assert constant_of('y = Constant <value_string = "a"> ()') is None
    assert constant_of('y = Constant <value = string[1] {"a"}> ()') is None
    assert constant_of("a = Constant <value_float = 1.0> () y = Relu (a)") is None
    assert walk.constant(None) is None


def test_a_constant_given_by_a_function_attribute_is_unknown():
    text = NESTED.replace("half (v)", "half <k> (v)").replace("value_float = 2.0", "value_float : float = @k")
    model = load(onnx.parser.parse_model(text))
    assert walk.constant(walk.values_by_name(model)["two"]) is None


def test_an_initializer_that_may_be_fed_is_no_constant(nested):
    w = nested.graph.initializers["w"]
    np.testing.assert_array_equal(walk.constant(w), [1, 2])
    nested.graph.inputs.append(w)
    assert walk.constant(w) is None
    assert walk.constant(walk.values_by_name(nested)["x"]) is None


def test_string_initializers_have_no_numbers(nested):
    w = nested.graph.initializers["w"]
    w.const_value = ir.StringTensor([b"a"], shape=ir.Shape([1]), name="w")
    assert walk.constant(w) is None


def test_float_types(nested):
    x, c = walk.values_by_name(nested)["x"], walk.values_by_name(nested)["c"]
    assert walk.is_float(x)
    assert not walk.is_float(c)
    assert not walk.is_float(None)
    for dtype in ("FLOAT16", "BFLOAT16", "DOUBLE"):
        x.dtype = ir.DataType[dtype]
        assert walk.is_float(x)


def test_lists_of_bodies_are_walked():
    body = ir.Graph([], [], nodes=[ir.node("A", [])], name="body")
    node = ir.Node("my", "Choose", [], [ir.AttrGraphs("branches", [body])])
    assert list(walk.subgraphs(node)) == [body]


def test_the_only_reader_is_in_the_same_graph_and_reads_once(nested):
    values = walk.values_by_name(nested)
    add = nested.graph[0]
    assert walk.only_reader(values["x"]) == (add, 0)
    assert walk.only_reader(values["w"]) == (add, 1)
    assert walk.only_reader(values["a"]) is None  # two readers, and both in bodies
    assert walk.only_reader(values["y"]) is None  # an output
    next(node for node in walk.nodes(nested) if node.op_type == "Mul").replace_input_with(0, values["x"])
    assert walk.only_reader(values["a"]) is None  # one reader, in a body
    assert walk.only_reader(values["x"]) is None
    add.replace_input_with(1, values["x"])
    assert walk.only_reader(values["x"]) is None


def test_control_flow_is_entered_and_other_bodies_are_not() -> None:
    """SequenceMap's body reads elements of sequences, which no value of the graph is."""
    model = load(build("""g (seq(float[2]) s, float[2] x, bool c) => (seq(float[2]) t, float[2] y) {
        t = SequenceMap (s) <body = each (float[2] e) => (float[2] f) { f = Neg (e) }>
        y = If (c) <
            then_branch = a () => (float[2] p) { p = If (c) <
                then_branch = b () => (float[2] q) { q = Exp (x) },
                else_branch = d () => (float[2] r) { r = Abs (x) }> },
            else_branch = h () => (float[2] u) { u = Tanh (x) }>
    }"""))  # fmt: skip
    found = [node.op_type for node in walk.control_flow_nodes(model.graph)]
    assert found == ["SequenceMap", "If", "If", "Exp", "Abs", "Tanh"]
    assert [len(graph) for graph in walk.control_flow_graphs(model.graph)] == [2, 1, 1, 1, 1]
