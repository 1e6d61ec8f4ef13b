"""Dynamic dimensions become numbers, consistently, or an error says why not."""

import numpy as np
import pytest

from models.build import Weights, build
from vqonnx.errors import ModelError, OptionError
from vqonnx.graph.io import load
from vqonnx.graph.walk import values_by_name
from vqonnx.runtime.session import open_session
from vqonnx.transforms.fixed_shapes import fix_shapes

TEXT = """
g (float[N, 3, H, W] x, float[N, 4] u) => (float[N, 4] y, float[N, K] z) {
  c = Conv <strides = [2, 2]> (x, w)
  p = GlobalAveragePool (c)
  f = Flatten (p)
  y = Add (f, u)
  z = MatMul (y, m)
}
"""


def proto(text=TEXT):
    weights = Weights(0)
    weights.normal("w", 4, 3, 3, 3)
    weights.normal("m", 4, 7)
    return build(text, weights.arrays)


def shapes(model):
    return {name: str(value.shape) for name, value in values_by_name(model).items()}


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ({"N": 2}, 2, {"x": "[2,3,H,W]", "u": "[2,4]", "y": "[2,4]", "z": "[2,7]", "f": "[2,4]"}),
        ({"N": 2, "H": 9, "W": 11}, 4, {"x": "[2,3,9,11]", "c": "[2,4,4,5]", "p": "[2,4,1,1]"}),
        ({"x": [2, 3, 9, 11]}, 4, {"x": "[2,3,9,11]", "u": "[2,4]", "c": "[2,4,4,5]", "z": "[2,7]"}),
        ({"y": [2, 4]}, 2, {"x": "[2,3,H,W]", "u": "[2,4]"}),
        ({"x": (2, 3, 9, 11), "N": 2, "z": [2, 7]}, 4, {"z": "[2,7]"}),
        ({}, 0, {"x": "[N,3,H,W]"}),
    ],
)
def test_every_shape_follows(sizes, count, expected):
    model = load(proto())
    assert fix_shapes(model, sizes) == count
    assert expected.items() <= shapes(model).items()


def test_outputs_stay_equal(rng):
    model = load(proto())
    fix_shapes(model, {"x": [2, 3, 9, 11]})
    feeds = {"x": rng.normal(size=(2, 3, 9, 11)), "u": rng.normal(size=(2, 4))}
    feeds = {name: array.astype(np.float32) for name, array in feeds.items()}
    for old, new in zip(
        open_session(load(proto())).run(None, feeds), open_session(model).run(None, feeds), strict=True
    ):
        np.testing.assert_array_equal(new, old)


def test_stale_shapes_inside_are_inferred_anew():
    stale = proto()
    info = stale.graph.value_info.add()
    info.CopyFrom(stale.graph.input[0])
    info.name = "c"
    for dim, name in zip(info.type.tensor_type.shape.dim, ("N", "", "floor(H/2 - 1/2)", "dim_17"), strict=True):
        if name:
            dim.dim_param = name
        else:
            dim.dim_value = 4
    model = load(stale)
    fix_shapes(model, {"x": [1, 3, 9, 9]})
    assert shapes(model)["c"] == "[1,4,4,4]"


def test_an_unknown_rank_may_be_given():
    open_rank = proto("g (float[1] x) => (float[1] y) { y = Relu (x) }")
    for value in (*open_rank.graph.input, *open_rank.graph.output):
        value.type.tensor_type.ClearField("shape")
    model = load(open_rank)
    fix_shapes(model, {"x": [2, 5]})
    assert shapes(model)["y"] == "[2,5]"


def test_what_inference_does_not_know_keeps_what_is_stated():
    custom = build("g (float[N, 3] x) => (float[N, 3] y) { y = my.op (x) }", domains={"my": 1})
    model = load(custom)
    fix_shapes(model, {"N": 4})
    assert shapes(model)["y"] == "[4,3]"


def test_bodies_follow():
    text = """
    g (float[N, 3] x, bool c) => (float[N, 3] y) {
      y = If (c) <then_branch = p () => (float[N, 3] i) { i = Relu (x) },
                  else_branch = q () => (float[N, 3] j) { j = Neg (x) }>
    }
    """
    model = load(build(text))
    fix_shapes(model, {"N": 4})
    assert {shapes(model)[name] for name in ("x", "i", "j", "y")} == {"[4,3]"}


@pytest.mark.parametrize(
    ("sizes", "error", "match"),
    [
        ({"xx": [1]}, OptionError, r"'xx' is no input or output of the model \(did you mean .*Give a shape for one of"),
        ({"n": 1}, OptionError, r"no input or output has a dimension 'n'.* The named dimensions are H, K, N, W"),
        ({"N": -1}, OptionError, r"'N' cannot get the size -1"),
        ({"u": [-1, 4]}, OptionError, r"'u' cannot get the size -1"),
        ({"u": [1]}, OptionError, r"'u' cannot get the shape \[1\]: the model states \[N,4\]"),
        ({"u": [1, 5]}, OptionError, r"'u' cannot get the shape \[1, 5\]"),
        ({"u": [1, 4], "N": 2}, OptionError, r"dimension 'N' cannot be 2 and, in 'u', 1"),
        ({"u": [1, 4], "x": [2, 3, 5, 5]}, OptionError, r"dimension 'N' cannot be"),
        ({"K": 8}, ModelError, r"'z' is stated to be \[N,8\], but .* computes \[N,7\]"),
    ],
)
def test_what_does_not_fit_is_refused(sizes, error, match):
    with pytest.raises(error, match=match):
        fix_shapes(load(proto()), sizes)


def test_sizes_that_no_node_can_take_are_refused():
    product = proto("g (float[N, K] x) => (float[N, 7] y) { y = MatMul (x, m) }")
    with pytest.raises(ModelError, match=r"contradict"):
        fix_shapes(load(product), {"K": 5})
