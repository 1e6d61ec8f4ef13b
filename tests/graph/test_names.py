import onnx
import onnx.parser
import onnx_ir as ir
from hypothesis import given
from hypothesis import strategies as st

from vqonnx.graph import walk
from vqonnx.graph.io import load
from vqonnx.graph.names import NameAllocator, ensure_unique_names
from vqonnx.graph.proto import to_proto

SHADOWED = """<ir_version: 10, opset_import: ["": 17]>
g (bool c, float[2] x) => (float[2] y) <float[2] w = {1.0, 2.0}> {
  [n] a = Add (x, w)
  y = If (c) <
    then_branch = t () => (float[2] p) <float[2] k = {3.0, 4.0}> { [n] p = Mul (a, k) },
    else_branch = e () => (float[2] p) <float[2] k = {5.0, 6.0}> { p = Mul (x, k) }>
}
"""


@given(st.lists(st.text("ab_1", max_size=4)), st.lists(st.text("ab_1", max_size=4)))
def test_no_name_is_given_twice(taken, wished):
    allocator = NameAllocator(taken)
    given_names = [allocator.unique(name) for name in wished]
    assert len({*taken, *given_names}) == len(set(taken)) + len(wished)
    assert all(name in allocator for name in given_names)


def test_a_free_name_is_taken_as_it_is():
    allocator = NameAllocator(["a"])
    assert [allocator.unique(name) for name in ("b", "a", "a")] == ["b", "a_1", "a_2"]


def test_many_equal_wishes_take_linear_work(count_calls):
    def wish(count: int) -> None:
        allocator = NameAllocator()
        assert len({allocator.unique("scale") for _ in range(count)}) == count

    assert count_calls(wish, 8000) < 4.4 * count_calls(wish, 2000)


def test_an_allocator_knows_names_in_subgraphs():
    allocator = NameAllocator.of(load(onnx.parser.parse_model(SHADOWED)))
    assert all(name in allocator for name in ("c", "x", "y", "w", "a", "p", "k", "n"))


def test_names_become_unique_and_the_outer_ones_stay():
    model = load(onnx.parser.parse_model(SHADOWED))
    ensure_unique_names(model)
    assert [value.name for value in walk.graph_values(model.graph)] == ["c", "x", "w", "a", "y"]
    names = [value.name for value in walk.values(model)]
    assert len(names) == len(set(names)) == 9
    nodes = [node.name for node in walk.nodes(model)]
    assert nodes[0] == "n"
    assert len(set(nodes)) == 4
    for graph in walk.graphs(model):
        assert all(key == value.name == value.const_value.name for key, value in graph.initializers.items())
    onnx.checker.check_model(to_proto(model), full_check=True)


def test_unnamed_nodes_are_called_after_what_they_make():
    model = load(onnx.parser.parse_model(SHADOWED))
    ensure_unique_names(model)
    assert list(model.graph)[1].name == "If_y"


def test_unique_names_stay():
    model = load(onnx.parser.parse_model(SHADOWED))
    ensure_unique_names(model)
    before = to_proto(model)
    ensure_unique_names(model)
    assert to_proto(model) == before


def test_values_without_names_get_some():
    x = ir.Value(name="x")
    node = ir.Node("", "Relu", [x], name="r")
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": 17}, name="g")
    node.outputs[0].name = None
    ensure_unique_names(ir.Model(graph, ir_version=10))
    assert node.outputs[0].name == "Relu_output"
