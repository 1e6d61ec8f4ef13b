"""Segments run one after the other give what the whole model gives; each node stands in one of them."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from models.build import build
from models.matmuls import linear_bias
from models.registry import load as load_cases
from tests.quantizers.flow import EAGER, prepared, run
from tests.sampling import slow
from vqonnx.calibration.model import exposing
from vqonnx.errors import ModelError
from vqonnx.graph.io import load
from vqonnx.graph.segments import Segment, around, read_later, segments
from vqonnx.graph.walk import constant, constant_tensor, values_by_name
from vqonnx.quantizers.options import QuantizerOptions
from vqonnx.runtime.session import add_outputs, open_session

CASES = {name: case for name, case in load_cases().items() if case.runnable}
OPTIONS = QuantizerOptions.of(target=EAGER)
Free = Callable[[ir.Node], bool]


def nothing(_: ir.Node) -> bool:
    return False


def movers(node: ir.Node) -> bool:
    return node.op_type in ("Relu", "Reshape", "Transpose", "Flatten", "Identity")


def results(model: ir.Model, every: int) -> list[ir.Value]:
    """Each ``every``-th node's first output, and the graph's outputs."""
    inside = [node.outputs[0] for position, node in enumerate(model.graph) if position % every == 0]
    outputs = [value for value in model.graph.outputs if value.producer() is not None]
    order = {value: place for place, node in enumerate(model.graph) for value in node.outputs}
    return sorted(dict.fromkeys((*inside, *outputs)), key=order.__getitem__)


def alone(values: list[ir.Value]) -> list[list[ir.Value]]:
    return [[value] for value in values]


@pytest.mark.parametrize(("every", "free"), [slow((1, nothing)), slow((2, nothing)), (3, movers)])
@pytest.mark.parametrize("case", list(CASES))
def test_segments_in_turn_compute_the_model(case: str, every: int, free: Free) -> None:
    model = prepared(CASES[case].build(), OPTIONS)
    feed = next(iter(CASES[case].feeds(1)))
    cut = segments(model.graph, alone(results(model, every)), free)
    known = dict(feed)
    for one in cut:
        part = one.model(model)
        given = run(part, {value.name: known[value.name] for value in one.inputs})
        known |= {value.name: given[value.name] for value in one.outputs}
    expected = run(model, feed)
    # A value that crosses a cut is rounded to float16, which inside a kernel it need not be.
    atol = 1e-3 if "half" in case else 1e-6
    for value in model.graph.outputs:
        if value.producer() is not None:
            np.testing.assert_allclose(known[value.name], expected[value.name], rtol=1e-5, atol=atol)


@pytest.mark.parametrize("case", list(CASES))
def test_each_node_is_in_one_segment_but_free_ones(case: str) -> None:
    model = prepared(CASES[case].build(), OPTIONS)
    for free in (nothing, movers):
        cut = segments(model.graph, alone(results(model, 2)), free)
        placed = [node for one in cut for node in one.nodes]
        fixed = [node for node in placed if not free(node)]
        assert len(fixed) == len(set(fixed))
        assert set(placed) == set(model.graph)  # all lead to an output
        order = {node: place for place, node in enumerate(model.graph)}
        for one in cut:
            assert [order[node] for node in one.nodes] == sorted(order[node] for node in one.nodes)
            assert one.outputs[0] is one.results[0]


@pytest.mark.parametrize("case", list(CASES))
def test_a_segment_reads_only_what_stands_before_it(case: str) -> None:
    model = prepared(CASES[case].build(), OPTIONS)
    made: set[ir.Value] = set(model.graph.inputs)
    for one in segments(model.graph, alone(results(model, 2)), movers):
        assert set(one.inputs) <= made
        assert not any(constant_tensor(value) for value in one.inputs)
        made |= set(one.outputs)


def test_a_free_node_lets_its_input_cross_the_cut() -> None:
    model = prepared(CASES["chains/conv"].build(), OPTIONS)
    convolutions = [node.outputs[0] for node in model.graph if node.op_type == "Conv"]
    bound, free = (segments(model.graph, alone(convolutions[:2]), how)[1] for how in (nothing, movers))
    assert [node.op_type for node in free.nodes] == ["Relu", "Conv"]
    assert [value.name for value in free.inputs] == [convolutions[0].name]
    assert [node.op_type for node in bound.nodes] == ["Relu", "Conv"]


@pytest.mark.parametrize("size", [slow(1), 2, slow(3)])
@pytest.mark.parametrize("case", list(CASES))
def test_a_segment_may_have_several_results_and_graph_inputs_among_them(case: str, size: int) -> None:
    model = prepared(CASES[case].build(), OPTIONS)
    feed = next(iter(CASES[case].feeds(1)))
    wanted = [*model.graph.inputs, *results(model, 2)]
    cut = segments(model.graph, [wanted[i : i + size] for i in range(0, len(wanted), size)], movers)
    known = dict(feed)
    kept = set(model.graph.inputs)
    for one, later in zip(cut, read_later(cut), strict=True):
        assert set(one.inputs) <= kept
        given = run(one.model(model), {value.name: known[value.name] for value in one.inputs})
        assert list(given) == [value.name for value in one.outputs]
        known |= given
        assert later <= {*kept, *one.outputs}
        kept = later
    alike = run(exposing(model, [value.name or "" for value in wanted]), feed)
    atol = 1e-3 if "half" in case else 1e-6
    for name, expected in alike.items():
        np.testing.assert_allclose(known[name], expected, rtol=1e-5, atol=atol)


def test_strings_are_constants_too() -> None:
    text = """strings (int64[N] x) => (string[N] y) {
        joined = StringConcat (left, right)
        y = Gather (joined, x)
    }"""
    model = load(build(text, {name: np.array(["a", "b"], object) for name in ("left", "right")}, opset=20))
    values = values_by_name(model)
    cut = segments(model.graph, [[values["joined"]], [values["y"]]], nothing)
    assert [[value.name for value in one.inputs] for one in cut] == [[], ["joined", "x"]]


def test_an_initializer_may_be_fed() -> None:
    case = CASES["chains/conv"]
    model = prepared(case.build(), OPTIONS)
    first = next(node for node in model.graph if node.op_type == "Conv")
    bias = first.inputs[2]
    assert bias is not None
    (cut,) = segments(model.graph, [[first.outputs[0]]], nothing)
    feed = next(iter(case.feeds(1)))
    plain = run(cut.model(model), feed)[first.outputs[0].name or ""]
    shifted = run(cut.model(model, [bias]), {**feed, bias.name or "": np.ones(4, np.float32)})
    constant = bias.const_value
    assert constant is not None
    expected = plain + (1 - constant.numpy()).reshape(1, -1, 1, 1)
    np.testing.assert_allclose(shifted[first.outputs[0].name or ""], expected, rtol=1e-5, atol=1e-6)


def test_cutting_changes_nothing_in_the_model() -> None:
    model = prepared(CASES["networks/residual_cnn"].build(), OPTIONS)
    nodes = [node.name for node in model.graph]
    made: list[Segment] = segments(model.graph, alone(results(model, 3)), nothing)
    for one in made:
        one.model(model)
    assert [node.name for node in model.graph] == nodes
    feed = next(iter(CASES["networks/residual_cnn"].feeds(1)))
    inner = add_outputs(load(model), [made[0].results[0].name or ""])
    assert made[0].results[0].name in run(inner, feed)


def test_what_lies_between_two_values_is_a_model_of_its_own() -> None:
    model = load(linear_bias())
    values = values_by_name(model)
    part = around(model, [values["x"]], [values["a"]])
    assert [node.op_type for node in part.graph] == ["MatMul", "Add"]
    rows = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    (found,) = open_session(part).run(None, {"x": rows})
    weight, bias = (constant(values[name]) for name in ("a_w", "a_b"))
    np.testing.assert_allclose(found, rows @ weight + bias, rtol=1e-5, atol=1e-5)


def test_a_value_that_needs_more_than_the_start_is_refused() -> None:
    model = load(linear_bias())
    values = values_by_name(model)
    with pytest.raises(ModelError, match="'y' does not follow from 'r' alone: it needs 'x' too"):
        around(model, [values["r"]], [values["y"]])
