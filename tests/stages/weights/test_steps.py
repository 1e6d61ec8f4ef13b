"""Which inputs can be walked, and how a model is cut for them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.build import Weights, build
from models.chains import matmul_chain
from models.control import if_captures, local_function
from models.precision import double, half
from models.sharing import tied_embedding
from tests.stages.weights.walking import layer_inputs, loaded
from vqonnx.graph.io import load
from vqonnx.graph.segments import constant_nodes
from vqonnx.graph.walk import nodes_by_name
from vqonnx.stages.weights.steps import Budget, LayerInput, Step, planned_steps, unwalkable


def test_what_the_main_graph_makes_or_is_given_can_be_walked() -> None:
    model = loaded(if_captures())
    assert unwalkable(model, ["x", "h", "r", "y"]) == {}


@pytest.mark.parametrize(
    ("model", "name", "reason"),
    [
        (if_captures, "m", "it is inside a control-flow body or a function"),
        (if_captures, "outer_w", "it is a constant"),
        (local_function, "product", "it is inside a control-flow body or a function"),
        (lambda: tied_embedding("MatMul"), "t", "it is a constant"),
        (if_captures, "rr", "it is not in the model (did you mean 'r'?)"),
        (
            lambda: tied_embedding("Gemm"),
            "ids",
            "it has elements of type INT64; only FLOAT, FLOAT16, DOUBLE are measured",
        ),
    ],
)
def test_what_cannot_be_walked_has_a_reason(model: Any, name: str, reason: str) -> None:
    assert unwalkable(loaded(model()), ["x" if name == "rr" else "ids" if name == "t" else name, name])[name] == reason


def test_bfloat16_has_a_reason() -> None:
    text = "brain (bfloat16[N, 4] x, bfloat16[4, 4] k) => (bfloat16[N, 4] y) { y = MatMul (x, k) }"
    assert unwalkable(loaded(build(text)), ["x"]) == {
        "x": "it has elements of type BFLOAT16; only FLOAT, FLOAT16, DOUBLE are measured"
    }


@pytest.mark.parametrize("model", [half, double])
def test_other_floating_types_can_be_walked(model: Any) -> None:
    assert unwalkable(loaded(model()), ["x"]) == {}


def test_numbers_that_are_drawn_are_no_constants() -> None:
    text = """drawn (float[N, 4] x) => (float[N, 4] y) {
        noise = RandomNormal <shape = [4]> ()
        half = Constant <value_float = 0.5> ()
        less = Mul (noise, half)
        quarter = Mul (half, half)
        flag = Cast <to = 9> (half)
        chosen = If (flag) <
            then_branch = yes () => (float[4] a) { a = RandomNormal <shape = [4]> () },
            else_branch = no () => (float[4] b) { b = Expand (quarter, four) }
        >
        sum = Add (less, chosen)
        scaled = Mul (x, quarter)
        y = Add (scaled, sum)
    }"""
    model = loaded(build(text, {"four": np.array([4], np.int64)}))
    assert {node.outputs[0].name for node in constant_nodes(model.graph)} == {"half", "quarter", "flag"}
    assert unwalkable(model, ["noise", "chosen"]) == {}


def steps_of(model: ir.Model, budget: Budget | None, rows: int = 2) -> list[Step]:
    inputs = layer_inputs(model)
    width = next(int(size) for size in reversed(model.graph.inputs[0].shape or ()) if isinstance(size, int))
    return planned_steps(model, inputs, {"x": np.zeros((rows, width), np.float32)}, budget)


def names(steps: list[Step]) -> list[list[str]]:
    return [[one.value for one in step.inputs] for step in steps]


COST = 8 * 64**2 + 4 * 64 * 1024  # the sum, and rows that wait
WEIGHT = 4 * 64**2


@pytest.mark.parametrize(
    ("nbytes", "sums", "rows", "expected"),
    [
        (1 << 40, 1, 2, [["x", "t0", "t1", "t2"]]),
        (0, 1, 2, [["x"], ["t0"], ["t1"], ["t2"]]),
        (2 * COST + WEIGHT + 2 * 3 * 512, 1, 2, [["x", "t0"], ["t1"], ["t2"]]),
        (2 * COST + WEIGHT + 2 * 3 * 512 - 1, 1, 2, [["x"], ["t0"], ["t1"], ["t2"]]),
        (2 * (COST + WEIGHT + 3 * 512), 1, 2, [["x", "t0"], ["t1", "t2"]]),
        (2 * (COST + WEIGHT + 3 * 512), 2, 2, [["x"], ["t0"], ["t1"], ["t2"]]),
        (2 * (COST + WEIGHT + 3 * 512), 1, 3, [["x", "t0"], ["t1"], ["t2"]]),
    ],
)
def test_inputs_are_measured_together_as_far_as_they_fit(
    nbytes: int, sums: int, rows: int, expected: list[list[str]]
) -> None:
    model = loaded(matmul_chain(4, width=64))
    assert names(steps_of(model, Budget(nbytes=nbytes, sums=sums, runs=3), rows)) == expected


def test_an_input_of_unknown_size_is_measured_alone() -> None:
    model = loaded(matmul_chain(4, width=64))
    for node in model.graph:
        if node.outputs[0].name == "t1":
            node.outputs[0].shape = None
    budget = Budget(nbytes=1 << 30, sums=1, runs=3)
    assert names(steps_of(model, budget)) == [["x", "t0"], ["t1"], ["t2"]]


def test_without_a_budget_each_value_has_a_step() -> None:
    assert names(steps_of(loaded(matmul_chain(4, width=64)), None)) == [["x"], ["t0"], ["t1"], ["t2"]]


def test_a_weight_that_is_computed_does_not_cross_a_cut() -> None:
    text = """computed (float[N, 4] x) => (float[N, 4] y) {
        w = Transpose (k)
        a = MatMul (x, w)
        r = Relu (a)
        y = MatMul (r, w)
    }"""
    weights = Weights(0)
    weights.normal("k", 4, 4)
    model = loaded(build(text, weights.arrays))
    inputs = [LayerInput(value="r", features=4), LayerInput(value="y", features=4)]
    steps = planned_steps(model, inputs, {"x": np.zeros((1, 4), np.float32)}, None)
    assert [[value.name for value in step.segment.inputs] for step in steps] == [["x"], ["r"]]
    assert [len(step.segment.nodes) for step in steps] == [3, 2]


def test_weights_stay_where_they_are(tmp_path: Path) -> None:
    """Cutting reads nothing of a file."""
    path = tmp_path / "model.onnx"
    onnx.save_model(matmul_chain(4, width=64), path, save_as_external_data=True, size_threshold=0)
    model = load(path)
    inputs = [LayerInput(value=f"t{n}", features=64) for n in range(3)]
    for budget in (None, Budget(nbytes=1 << 30, sums=2, runs=3)):
        for step in planned_steps(model, inputs, {"x": np.zeros((1, 64), np.float32)}, budget):
            for value in step.segment.model(model).graph.initializers.values():
                assert isinstance(value.const_value, ir.ExternalTensor)
                assert value.const_value.raw is None
    assert nodes_by_name(model)["MatMul_0"].inputs[1].const_value.raw is None  # type: ignore[union-attr]
