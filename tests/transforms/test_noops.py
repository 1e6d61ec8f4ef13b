"""Nodes that do nothing go, and graph outputs keep their names."""

import numpy as np
import pytest

from models.build import build
from vqonnx.graph.io import load
from vqonnx.transforms.noops import remove_noops

WEIGHTS = {
    "same": np.int64([2, 3]),
    "other": np.int64([3, 2]),
    "copy": np.int64([0, 3]),
    "nothing": np.int64([0, 0, 0, 0]),
    "some": np.int64([0, 0, 0, 1]),
    "ratio": np.float32(0.5),
    "no": np.array(False),
    "yes": np.array(True),
}


def graph(node: str, inputs: str = "float[2, 3] x") -> str:
    return f"g ({inputs}) => (float[a, b] y) {{ h = Relu (x) {node} y = Neg (t) }}"


@pytest.mark.parametrize(
    "node",
    [
        "t = Identity (h)",
        "t = Dropout (h)",
        "t, mask = Dropout (h, ratio)",
        "t = Dropout (h, ratio, no)",
        "t = Cast <to = 1> (h)",
        "t = Transpose <perm = [0, 1]> (h)",
        "t = Reshape (h, same)",
        "t = Pad (h, nothing)",
        "t = Concat <axis = 0> (h)",
        "t = Sum (h)",
        "t = Max (h)",
    ],
)
def test_a_node_without_effect_goes(check, node):
    proto = build(graph(node), WEIGHTS)
    if "Cast" in node or "Reshape" in node:
        proto.graph.value_info.extend([proto.graph.input[0]])
        proto.graph.value_info[0].name = "h"
    changed = check(proto, remove_noops)
    assert (changed.count, changed.ops) == (1, ["Relu", "Neg"])


@pytest.mark.parametrize(
    "node",
    [
        "t = Dropout (h, ratio, flag)",
        "u = Cast <to = 10> (h) t = Cast <to = 1> (u)",
        "t = Transpose (h)",
        "t = Reshape (h, other)",
        "t = Reshape (h, copy)",
        "t = Pad (h, some)",
        "t = Concat <axis = 0> (h, h)",
        "t = Sum (h, h)",
    ],
)
def test_a_node_with_effect_stays(node):
    inputs = "float[2, 3] x, bool flag" if "flag" in node else "float[2, 3] x"
    assert remove_noops(load(build(graph(node, inputs), WEIGHTS))) == 0


def test_a_dropout_that_trains_or_tells_its_mask_stays():
    assert remove_noops(load(build(graph("t = Dropout (h, ratio, yes)"), WEIGHTS))) == 0
    text = "g (float[2, 3] x) => (float[2, 3] y, bool[2, 3] m) { y, m = Dropout (x) }"
    assert remove_noops(load(build(text))) == 0


def test_chains_go_in_one_pass_and_outputs_keep_their_names(check):
    text = (
        "g (float[2] x) => (float[2] y, float[2] z) "
        "{ a = Relu (x) b = Identity (a) c = Dropout (b) y = Identity (c) z = Neg (c) }"
    )
    changed = check(build(text), remove_noops)
    assert changed.ops == ["Relu", "Neg"]


def test_an_output_that_is_an_input_constant_or_other_output_stays(check):
    text = (
        "g (float[2] x) => (float[2] y, float[2] v, float[2] a, float[2] b) "
        "{ y = Identity (x) v = Identity (w) a = Relu (x) b = Identity (a) }"
    )
    changed = check(build(text, {"w": np.float32([1, 2])}), remove_noops)
    assert changed.count == 0


def test_bodies_keep_captured_values_and_body_outputs(check):
    text = """g (bool c, float[2] x) => (float[2] y) { o = Identity (x)
        y = If (c) <then_branch = t () => (float[2] a) { a = Identity (o) },
                    else_branch = e () => (float[2] b) { r = Relu (o) s = Identity (r) b = Dropout (s) }> }"""
    changed = check(build(text), remove_noops, samples=6)
    assert changed.ops == ["If", "Identity", "Relu"]


def test_a_loop_that_passes_its_state_on_keeps_its_identities(check):
    text = """g (float[2] x) => (float[2] y) { n = Constant <value_int = 3> () c = Constant <value = bool {1}> ()
        y = Loop (n, c, x) <body = b (int64 i, bool k, float[2] s) => (bool k2, float[2] s2) {
            k2 = Identity (k) h = Identity (s) d = Add (h, h) s2 = Identity (d) }> }"""
    changed = check(build(text), remove_noops)
    assert changed.ops == ["Constant", "Constant", "Loop", "Identity", "Add"]


def test_functions_are_cleaned_too(check):
    functions = (
        '<opset_import: ["": 17], domain: "local"> F (a) => (b) { c = Identity (a) d = Relu (c) b = Identity (d) }'
    )
    text = "g (float[2] x) => (float[2] y) { y = local.F (x) }"
    changed = check(build(text, functions=functions, domains={"local": 1}), remove_noops)
    assert changed.ops == ["F", "Relu"]


@pytest.mark.parametrize("opset", [7, 10])
def test_old_forms_of_dropout_and_pad(check, opset):
    text = (
        "g (float[2, 3] x) => (float[2, 3] y) "
        "{ a = Dropout <ratio = 0.5> (x) b = Pad <pads = [0, 0, 0, 0]> (a) y = Relu (b) }"
    )
    assert check(build(text, opset=opset), remove_noops).ops == ["Relu"]
