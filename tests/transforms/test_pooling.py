"""Means over all positions become GlobalAveragePool, others stay."""

import numpy as np
import pytest

from models.build import build
from vqonnx.graph.io import load
from vqonnx.graph.walk import nodes
from vqonnx.transforms.pooling import average_globally


def mean(rank, axes, *, keepdims=1, opset=17, dtype="float", before="Relu", after="Neg"):
    """``before`` -> ReduceMean -> ``after``, with axes as the opset has them."""
    dims = ", ".join(["N", "3", "4", "5", "6", "7"][:rank])
    attributes = f"keepdims = {keepdims}" + (f", axes = {list(axes)}" if opset < 18 else "")
    attributes = attributes.removesuffix(", axes = []")
    inputs = "h" if opset < 18 else "h, axes"
    nodes = f"h = {before} (x) m = ReduceMean <{attributes}> ({inputs}) y = {after} (m)"
    weights = {} if opset < 18 else {"axes": np.int64(axes)}
    model = build(f"g ({dtype}[{dims}] x) => ({dtype} y) {{ {nodes} }}", weights, opset=opset)
    model.graph.value_info.extend([model.graph.input[0]])
    model.graph.value_info[0].name = "h"
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@pytest.mark.parametrize("axes", [(2, 3), (-1, -2)])
@pytest.mark.parametrize(("keepdims", "expected"), [(1, []), (0, ["Flatten"])])
def test_a_mean_over_all_positions_becomes_a_pooling(check, opset, axes, keepdims, expected):
    changed = check(mean(4, axes, keepdims=keepdims, opset=opset), average_globally)
    assert (changed.count, changed.ops) == (1, ["Relu", "GlobalAveragePool", *expected, "Neg"])
    assert next(node for node in nodes(changed.model) if node.op_type == "GlobalAveragePool").name == "ReduceMean_1"


@pytest.mark.parametrize(("rank", "axes"), [(3, (2,)), (3, (-1,)), (5, (2, 3, 4)), (5, (4, -2, 2))])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_one_and_three_spatial_axes(check, rank, axes, keepdims):
    assert check(mean(rank, axes, keepdims=keepdims), average_globally).count == 1


def test_half_precision(check):
    assert check(mean(4, (2, 3), dtype="float16"), average_globally).count == 1


@pytest.mark.parametrize("keepdims", [0, 1])
def test_a_graph_output_keeps_its_name_and_shape(check, keepdims):
    shape = "N, 3, 1, 1" if keepdims else "N, 3"
    text = (
        f"g (float[N, 3, 4, 5] x) => (float[{shape}] y) {{ y = ReduceMean <axes = [2, 3], keepdims = {keepdims}> (x) }}"
    )
    changed = check(build(text), average_globally)
    assert changed.count == 1
    assert len(changed.model.graph.outputs[0].shape) == (4 if keepdims else 2)


@pytest.mark.parametrize(
    "proto",
    [
        mean(4, (1, 2)),
        mean(4, (3,)),
        mean(4, (0, 2, 3)),
        mean(4, ()),
        mean(4, (), opset=18),
        mean(2, (1,)),
        mean(6, (2, 3, 4, 5)),
        mean(4, (2, 3), dtype="double"),
        build("g (int32[1, 3, 4, 4] x) => (int32[1, 3] y) { y = ReduceMean <axes = [2, 3], keepdims = 0> (x) }"),
        build("g (float[1, 3, 4] x, int64[K] a) => (float y) { y = ReduceMean (x, a) }", opset=18),
        build("g (float[1, 3, 4] x) => (float[1, 3, 1] y) { y = ReduceMax <axes = [2]> (x) }"),
    ],
)
def test_other_means_stay(proto):
    assert average_globally(load(proto)) == 0


def test_an_unknown_rank_stays():
    proto = mean(4, (2, 3))
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    proto.graph.value_info[0].type.tensor_type.ClearField("shape")
    assert average_globally(load(proto)) == 0


@pytest.mark.parametrize("square", ["d2 = Pow (d, two)", "d2 = Mul (d, d)"])
def test_a_normalization_written_out_stays(square):
    text = f"""
    g (float[N, 3, 8] x) => (float[N, 3, 8] y) {{
      m = ReduceMean <axes = [2]> (x)
      d = Sub (x, m)
      {square}
      v = ReduceMean <axes = [2]> (d2)
      r = Sqrt (v)
      y = Div (d, r)
    }}
    """
    proto = build(text, {"two": np.float32(2)})
    for name in ("d", "d2"):
        proto.graph.value_info.extend([proto.graph.input[0]])
        proto.graph.value_info[-1].name = name
    assert average_globally(load(proto)) == 0


def test_bodies_are_included(check):
    text = """
    g (float[1, 3, 4, 4] x, bool c) => (float[1, 3, 1, 1] y) {
      y = If (c) <then_branch = a () => (float[1, 3, 1, 1] i) { i = ReduceMean <axes = [2, 3]> (x) },
                  else_branch = b () => (float[1, 3, 1, 1] j) { j = GlobalMaxPool (x) }>
    }
    """
    assert check(build(text), average_globally).count == 1
