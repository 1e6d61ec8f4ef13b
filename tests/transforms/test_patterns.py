"""Patterns are found whatever the order, and only where nothing reads their inside."""

import numpy as np
import pytest

from models.build import build
from vqonnx.graph.io import load
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import nodes
from vqonnx.transforms.patterns import Anything, Constant, Number, either, find, op
from vqonnx.transforms.shapes import infer_shapes

X, C = Anything(), Constant()
SIGNATURE = "g (float[N, 4] x, float[N, 4] z, bool q) => (float[N, 4] y)"
ARRAYS = {
    "half": np.float32(0.5),
    "halves": np.float32([0.5]),
    "deep": np.float32([[[0.5]]]),
    "ones": np.ones(4, np.float32),
    "ones_2": np.ones(4, np.float32),
    "row": np.arange(4, dtype=np.float32),
}


def last(text, signature=SIGNATURE):
    """The node that makes y."""
    model = load(build(f"{signature} {{ {text} }}", ARRAYS))
    infer_shapes(model)
    return model.graph.outputs[0].producer()


def names(match):
    return sorted(node.op_type for node in match.nodes)


HALF = op("Mul", X, Number(0.5))


@pytest.mark.parametrize(
    "text",
    [
        "y = Mul (x, half)",
        "y = Mul (half, x)",
        "y = Mul (x, halves)",
        "h = Constant <value_float = 0.5> () y = Mul (h, x)",
        "h = Constant <value_float = 0.50001> () y = Mul (h, x)",
    ],
)
def test_a_number_on_either_side(text):
    match = find(HALF, last(text))
    assert match is not None
    assert (match[X].name, names(match)) == ("x", ["Mul"])


@pytest.mark.parametrize(
    "text",
    [
        "y = Mul (x, z)",
        "y = Mul (x, ones)",
        "h = Constant <value_float = 0.501> () y = Mul (h, x)",
        "y = Div (x, half)",
        "y = Mul (x, row)",
    ],
)
def test_what_is_no_such_number(text):
    assert find(HALF, last(text)) is None


def test_a_number_of_more_axes_than_the_result():
    """It adds an axis in front, which the operator that stands for all would not."""
    pattern = op("Add", op("ReduceMax", HALF), Number(0.5))
    body = "y = Add (r, half)"
    kept = last(f"m = Mul (x, half) r = ReduceMax <axes = [0]> (m) {body}")
    raised = last(f"m = Mul (x, deep) r = ReduceMax <axes = [0], keepdims = 0> (m) {body}")
    assert (find(pattern, kept) is None, find(pattern, raised) is None) == (False, True)


def test_subtraction_keeps_its_order():
    pattern = op("Sub", op("Exp", X), X)
    assert find(pattern, last("e = Exp (x) y = Sub (e, x)")) is not None
    assert find(pattern, last("e = Exp (x) y = Sub (x, e)")) is None


def test_one_name_is_one_value():
    pattern = op("Mul", op("Exp", X), X)
    assert find(pattern, last("e = Exp (x) y = Mul (x, e)")) is not None
    assert find(pattern, last("e = Exp (x) y = Mul (z, e)")) is None


def test_equal_constants_are_one():
    pattern = op("Add", op("Mul", X, C), C)
    assert find(pattern, last("m = Mul (x, ones) y = Add (m, ones_2)")) is not None
    assert find(pattern, last("m = Mul (x, ones) y = Add (m, row)")) is None


def test_what_is_computed_twice_is_found_once_more():
    mean = op("ReduceMean", X)
    pattern = op("Div", op("Sub", X, mean), mean)
    once = last("m = ReduceMean <axes = [1]> (x) s = Sub (x, m) y = Div (s, m)")
    twice = last("m = ReduceMean <axes = [1]> (x) n = ReduceMean <axes = [1]> (x) s = Sub (x, m) y = Div (s, n)")
    other = last("m = ReduceMean <axes = [1]> (x) n = ReduceMean <axes = [1]> (z) s = Sub (x, m) y = Div (s, n)")
    assert [len(match.nodes) if (match := find(pattern, node)) else None for node in (once, twice, other)] == [
        3,
        4,
        None,
    ]


def test_alternatives_are_tried_with_all_that_follows():
    # Both options fit the first input; only the second lets the other one fit.
    pattern = op("Sub", either(op("Exp", X), op("Exp", op("Neg", X))), X)
    match = find(pattern, last("n = Neg (x) e = Exp (n) y = Sub (e, x)"))
    assert match is not None
    assert match[X].name == "x"


IN_A_BODY = """
  e = Exp (x)
  y = If (q) <then_branch = a () => (float[N, 4] i) { i = Mul (e, half) },
              else_branch = b () => (float[N, 4] j) { j = Neg (z) }>
"""


@pytest.mark.parametrize(
    ("text", "signature"),
    [
        ("e = Exp (x) t = Mul (e, half) u = Neg (e) y = Add (t, u)", SIGNATURE),  # another reader
        ("e = Exp (x) t = Mul (e, half) y = Identity (t)", SIGNATURE.replace("y)", "y, float[N, 4] e)")),  # an output
        (IN_A_BODY, SIGNATURE),  # the last node is there
    ],
)
def test_an_inside_that_others_read_is_refused(text, signature):
    pattern = op("Mul", op("Exp", X), Number(0.5))
    model = load(build(f"{signature} {{ {text} }}", ARRAYS))
    infer_shapes(model)
    (root,) = [node for node in nodes(model) if node.op_type == "Mul"]
    assert find(op("Mul", X, Number(0.5)), root) is not None
    assert find(pattern, root) is None


def test_casts_are_looked_through():
    text = "h = Cast <to = 10> (x) e = Exp (h) f = Cast <to = 1> (e) g = Cast <to = 1> (h) y = Add (f, g)"
    root = last(text)
    match = find(op("Add", op("Exp", X), X), root)
    assert match is not None
    assert names(match) == ["Add", "Cast", "Exp"]
    assert match.source(X).name in ("x", "g")
    integers = last("i = Cast <to = 6> (x) e = Cast <to = 1> (i) y = Add (e, x)")
    assert find(op("Add", X, X), integers) is None


def test_replacing_puts_one_node_in_the_place_of_all():
    model = load(build(f"{SIGNATURE} {{ e = Exp (x) t = Mul (half, e) y = Neg (t) }}", ARRAYS))
    infer_shapes(model)
    root = model.graph[1]
    match = find(op("Mul", op("Exp", X), Number(0.5)), root)
    assert match is not None
    match.replace("Softplus", [match[X]], {}, NameAllocator.of(model))
    assert [(node.op_type, node.name) for node in model.graph] == [("Softplus", "Mul_1"), ("Neg", "Neg_2")]
    assert str(model.graph[0].outputs[0].shape) == "[N,4]"


def test_a_result_of_another_type_is_cast():
    model = load(
        build(f"{SIGNATURE} {{ e = Exp (x) h = Cast <to = 10> (e) t = Neg (h) y = Cast <to = 1> (t) }}", ARRAYS)
    )
    infer_shapes(model)
    match = find(op("Neg", op("Exp", X)), model.graph[2])
    assert match is not None
    match.replace("Softplus", [match.source(X)], {}, NameAllocator.of(model))
    assert [node.op_type for node in model.graph] == ["Softplus", "Cast", "Cast"]
    assert [node.outputs[0].dtype.name for node in model.graph] == ["FLOAT", "FLOAT16", "FLOAT"]


def test_other_domains_do_not_match():
    model = load(build("g (float[N, 4] x) => (float[N, 4] y) { y = my.Exp (x) }", domains={"my": 1}))
    assert find(op("Exp", X), model.graph[0]) is None
