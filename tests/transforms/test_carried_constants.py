"""Constants that Loops hand on become constants again, and what is changed on the way stays a state."""

from pathlib import Path

import numpy as np
import pytest

from models.build import build
from models.control import carried_weights, growing_loop, loop_captures
from vqonnx import quantize_dynamic
from vqonnx.transforms.carried_constants import free_carried_constants

OUTER = {"trips": np.array(3, np.int64), "go": np.array(True), "w": np.float32([[1.5, -2], [0.5, 3]])}


def test_weights_of_a_cell_are_read_from_outside(check):
    changed = check(carried_weights(), free_carried_constants)
    assert changed.count == 3
    (loop,) = [node for node in changed.model.graph if node.op_type == "Loop"]
    assert loop.name == "Loop_0"
    assert [value.name for value in loop.inputs] == ["rows", "go", "start"]
    assert [value.name for value in loop.outputs] == ["last", "y"]
    body = loop.attributes["body"].as_graph()
    read = {node.op_type: [value.name for value in node.inputs] for node in body}
    assert read["Sum"][2] == "in_b"
    assert [value.name for value in body.inputs] == ["i", "go_in", "h"]


@pytest.mark.parametrize("make", [loop_captures, growing_loop])
def test_what_a_trip_changes_is_carried(check, make):
    assert check(make(), free_carried_constants).count == 0


@pytest.mark.parametrize(
    ("states", "handed_on"),
    [("w, x", "b, a"), ("x, x", "a, b"), ("w, x", "a, a")],
    ids=["swapped", "not constant", "handed on twice"],
)
def test_what_is_not_handed_on_to_itself_alone_is_carried(check, states, handed_on):
    first, second = handed_on.split(", ")
    names = handed_on if first != second else "a, c"
    copy = "c = Identity (a)" if first == second else ""
    text = f"""g (float[2, 2] x) => (float[2, 2] y, float[2, 2] z) {{
        y, z = Loop (trips, go, {states}) <
            body = step (int64 i, bool go_in, float[2, 2] a, float[2, 2] b) => (bool go_out, {
        ", ".join(f"float[2, 2] {name}" for name in names.split(", "))
    }) {{
                go_out = Identity (go_in)
                {copy}
            }}
        >
    }}"""
    changed = check(build(text, OUTER), free_carried_constants)
    assert changed.count == (first == second)  # the constant itself may go, also where another state becomes it


def test_a_constant_goes_through_loops_within_loops(check):
    text = """g (float[2, 2] x) => (float[2, 2] y) {
        y, v = Loop (trips, go, x, w) <
            body = outer (int64 i, bool go_in, float[2, 2] a, float[2, 2] b)
                => (bool go_out, float[2, 2] a_out, float[2, 2] b) {
                go_out = Identity (go_in)
                a_out, d = Loop (trips, go, a, b) <
                    body = inner (int64 j, bool on, float[2, 2] e, float[2, 2] f)
                        => (bool on_out, float[2, 2] e_out, float[2, 2] f) {
                        on_out = Identity (on)
                        m = MatMul (e, f)
                        e_out = Tanh (m)
                    }
                >
            }
        >
    }"""
    changed = check(build(text, OUTER), free_carried_constants)
    assert changed.count == 2
    assert [v.name for n in changed.model.graph.all_nodes() if n.op_type == "MatMul" for v in n.inputs][1] == "w"


def test_the_cell_is_then_quantized(tmp_path: Path) -> None:
    report = quantize_dynamic(carried_weights(), tmp_path / "m.onnx", progress=lambda *_: None)
    assert report.quantized["MatMul"] == 2
    assert not any("stays beside" in warning for warning in report.warnings)
