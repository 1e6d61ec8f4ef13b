"""Splits become Slices, and parts stay."""

import numpy as np
import pytest

from models.build import build
from vqonnx.graph.io import load
from vqonnx.graph.walk import nodes
from vqonnx.transforms.splits import splits_to_slices


def split(parts, attributes="", inputs="x", *, dims="6, 5", dtype="float", opset=17, weights=None):
    outputs = [f"y{part}" for part in range(parts)]
    shape = ", ".join("abcd"[: dims.count(",") + 1])
    text = (
        f"g ({dtype}[{dims}] x) => ({', '.join(f'{dtype}[{shape}] {name}' for name in outputs)}) "
        f"{{ {', '.join(outputs)} = Split {attributes} ({inputs}) }}"
    )
    return build(text, weights or {}, opset=opset)


@pytest.mark.parametrize("opset", [7, 9, 10, 11])
@pytest.mark.parametrize("attributes", ["", "<axis = 0>", "<split = [1, 2, 3]>", "<axis = 1, split = [3, 0, 2]>"])
def test_sizes_by_attribute(check, opset, attributes):
    changed = check(split(3, attributes, opset=opset), splits_to_slices)
    assert (changed.count, changed.ops) == (1, ["Slice"] * 3)
    assert changed.model.graph[0].name == "Split_0"


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@pytest.mark.parametrize("dims", ["6, 5", "N, M"])
def test_sizes_by_input_also_of_a_dynamic_axis(check, opset, dims):
    if "N" in dims:
        proto = split(2, inputs="x, s", dims=dims, opset=opset, weights={"s": np.int64([1, 2])})  # N is fed as 3
    else:
        proto = split(2, "<axis = -1>", "x, s", dims=dims, opset=opset, weights={"s": np.int64([4, 1])})
    assert check(proto, splits_to_slices).ops == ["Slice"] * 2


@pytest.mark.parametrize("dims", ["7, N", "8, N", "6, N"])
def test_the_last_of_uneven_parts_is_smaller(check, dims):
    changed = check(split(3, "<num_outputs = 3>", dims=dims, opset=18), splits_to_slices)
    assert changed.ops == ["Slice"] * 3


@pytest.mark.parametrize("dtype", ["float16", "double", "int64", "uint8", "string"])
def test_any_type(dtype):
    model = load(split(2, dims="4, 3", dtype=dtype))
    assert splits_to_slices(model) == 1
    assert [output.dtype for output in model.graph.outputs] == [model.graph.inputs[0].dtype] * 2


def test_parts_nobody_reads_get_no_slice(check):
    text = "g (float[6, N] x) => (float[2, N] y) { a, b, d = Split (x) c = Relu (b) e = Neg (b) y = Add (c, e) }"
    changed = check(build(text, opset=11), splits_to_slices)
    assert changed.ops == ["Slice", "Relu", "Neg", "Add"]


def test_one_part_is_the_whole(check):
    assert check(split(1, dims="4, N", opset=13), splits_to_slices).ops == ["Slice"]


def test_bodies_are_included(check):
    text = """
    g (float[4, 3] x, bool c) => (float[2, 3] y) {
      y = If (c) <then_branch = p () => (float[2, 3] i) { i, j = Split (x) },
                  else_branch = q () => (float[2, 3] k) { l, k = Split (x) }>
    }
    """
    assert check(build(text), splits_to_slices).ops == ["If", "Slice", "Slice"]


def with_an_absent_part():
    """ONNX Runtime makes two parts of this, ONNX three."""
    proto = build("g (float[6, N] x) => (float[3, N] y) { y, a, b = Split (x) }", opset=11)
    proto.graph.node[0].output[2] = ""
    return proto


@pytest.mark.parametrize(
    "proto",
    [
        split(2, dims="N, 4"),  # as many as there are
        build("g (float[6] x, int64[2] s) => (float[a] y, float[b] z) { y, z = Split (x, s) }"),
        split(4, "<num_outputs = 4>", dims="5, N", opset=18),  # 2, 2, 1 and less than nothing
        with_an_absent_part(),
    ],
)
def test_unknown_sizes_stay(proto):
    model = load(proto)
    assert splits_to_slices(model) == 0
    assert [node.op_type for node in nodes(model)] == ["Split"]


def test_an_unknown_rank_stays():
    proto = split(2)
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    assert splits_to_slices(load(proto)) == 0
