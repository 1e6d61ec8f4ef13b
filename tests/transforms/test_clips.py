"""Clips from zero on become Relus: exactly where nothing exceeds the bound, else by what is cut off."""

import numpy as np
import pytest

from models.build import build
from vqonnx.graph.io import load
from vqonnx.graph.walk import nodes
from vqonnx.runtime.session import open_session
from vqonnx.transforms.clips import clips_to_relus

INTEGERS = {"l": np.int8(0), "h": np.int8(6)}
MAX = float(np.finfo(np.float32).max)


def by_input(low, high, dtype="float", opset=17):
    numpy = {"float": np.float32, "float16": np.float16, "double": np.float64}[dtype]
    bounds = {name: np.array(number, numpy) for name, number in (("l", low), ("h", high)) if number is not None}
    inputs = ", ".join(["x", "l" if "l" in bounds else "", "h" if "h" in bounds else ""]).rstrip(", ")
    text = f"g ({dtype}[N, 4] x) => ({dtype}[N, 4] y) {{ y = Clip ({inputs}) }}"
    return build(text, bounds, opset=opset)


def by_attribute(text, opset=10):
    return build(f"g (float[N, 4] x) => (float[N, 4] y) {{ y = Clip {text} (x) }}", opset=opset)


# Normal deviates stay below 6, so that these are equal.
@pytest.mark.parametrize("opset", [12, 13, 17, 21])
@pytest.mark.parametrize("dtype", ["float", "float16", "double"])
def test_bounds_as_inputs(check, opset, dtype):
    changed = check(by_input(0, 6, dtype, opset), clips_to_relus)
    assert (changed.count, changed.ops, changed.model.graph[0].name) == (1, ["Relu"], "Clip_0")


@pytest.mark.parametrize("opset", [7, 10])
def test_bounds_as_attributes(check, opset):
    assert check(by_attribute("<min = 0.0, max = 6.0>", opset), clips_to_relus).ops == ["Relu"]


@pytest.mark.parametrize("kind", ["Constant <value = float {6}> ()", "Constant <value_float = 6.0> ()"])
def test_bounds_in_constant_nodes(check, kind):
    body = f"l = Constant <value = float {{0}}> () h = {kind} y = Clip (x, l, h)"
    assert check(build(f"g (float[N, 4] x) => (float[N, 4] y) {{ {body} }}"), clips_to_relus).ops == [
        "Constant",
        "Constant",
        "Relu",
    ]


@pytest.mark.parametrize(
    "proto",
    [
        by_input(0, None),
        by_input(0, MAX),
        by_input(0, np.inf),
        by_input(0, 65504, "float16"),
        by_attribute("<min = 0.0>"),
    ],
)
@pytest.mark.parametrize("highest", [6.0, None, np.inf])
def test_without_an_upper_bound_it_is_exact(check, proto, highest):
    assert check(proto, lambda model: clips_to_relus(model, highest=highest)).ops == ["Relu"]


@pytest.mark.parametrize(
    ("proto", "highest", "expected"),
    [
        (by_input(0, 1), 6.0, "Clip"),
        (by_input(0, 1), 1.0, "Relu"),
        (by_input(0, 1), None, "Relu"),
        (by_input(0, 6), np.inf, "Clip"),
        (by_input(0, 0), None, "Clip"),  # all zeros
        (by_input(-1, 6), None, "Clip"),
        (by_input(0.5, 6), None, "Clip"),
        (by_input(None, 6), None, "Clip"),
        (by_input(None, None), None, "Clip"),
        (by_attribute("<max = 6.0>"), None, "Clip"),
        (build("g (float[4] x, float h) => (float[4] y) { y = Clip (x, l, h) }", {"l": np.float32(0)}), None, "Clip"),
        (build("g (int8[N] x) => (int8[N] y) { y = Clip (x, l, h) }", INTEGERS), None, "Clip"),
    ],
)
def test_which_clips_change(proto, highest, expected):
    model = load(proto)
    count = clips_to_relus(model, highest=highest)
    assert [node.op_type for node in nodes(model)][-1] == expected
    assert count == (expected == "Relu")


def test_what_lies_beyond_the_bound_is_what_changes(rng):
    model, x = load(by_input(0, 6)), rng.uniform(-10, 10, (50, 4)).astype(np.float32)
    clips_to_relus(model)
    (found,) = open_session(model).run(None, {"x": x})
    np.testing.assert_array_equal(found, np.maximum(x, 0))
