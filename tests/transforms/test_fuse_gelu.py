"""Gelus that exporters write out become the operator; outputs stay."""

import numpy as np
import pytest

from models.build import build
from vqonnx.graph.io import load
from vqonnx.transforms.fuse_gelu import fuse_gelus
from vqonnx.transforms.shapes import infer_shapes

BY_ERF = {
    "torch, old exporter": "d = Div (x, r2) e = Erf (d) a = Add (e, one) m = Mul (x, a) y = Mul (m, half)",
    "torch, new exporter": "d = Div (x, r2) e = Erf (d) a = Add (e, one) m = Mul (half, a) y = Mul (x, m)",
    "BERT": "h = Mul (x, half) d = Div (x, r2) e = Erf (d) a = Add (e, one) y = Mul (h, a)",
    "TensorFlow": "d = Mul (x, ir2) e = Erf (d) a = Add (one, e) m = Mul (a, half) y = Mul (m, x)",
    "halves by division": "d = Div (x, r2) e = Erf (d) a = Add (e, one) m = Mul (x, a) y = Div (m, two)",
}
_TANH = "t = Tanh (k) a = Add (t, one)"
BY_TANH = {
    "torch, old exporter": (
        "p = Mul (x, x) q = Mul (x, p) c = Mul (cubic, q) s = Add (x, c) k = Mul (root, s) "
        f"{_TANH} m = Mul (x, a) y = Mul (half, m)"
    ),
    "torch, new exporter": (
        "q = Pow (x, three) c = Mul (cubic, q) s = Add (x, c) k = Mul (root, s) "
        f"{_TANH} m = Mul (half, a) y = Mul (x, m)"
    ),
    "GPT-2": (
        "h = Mul (x, half) q = Pow (x, three) c = Mul (q, cubic) s = Add (x, c) k = Mul (s, root) "
        f"{_TANH} y = Mul (h, a)"
    ),
    "fast": (
        "h = Mul (x, half) v = Mul (x, root) c = Mul (x, cubic) q = Mul (c, x) s = Add (q, one) k = Mul (v, s) "
        f"{_TANH} y = Mul (h, a)"
    ),
    "with a square": (
        "q = Pow (x, two) c = Mul (q, cubic) s = Add (one, c) v = Mul (x, s) k = Mul (root, v) "
        f"{_TANH} m = Mul (x, a) y = Mul (m, half)"
    ),
    "one x at a time": (
        "c = Mul (cubic, x) q = Mul (c, x) r = Mul (q, x) s = Add (r, x) k = Mul (s, root) "
        f"{_TANH} m = Mul (x, a) y = Mul (m, half)"
    ),
}
FORMS = [*BY_ERF.items(), *BY_TANH.items()]
NUMBERS = {
    "half": 0.5, "one": 1.0, "two": 2.0, "three": 3.0, "r2": 1.41421356, "ir2": 0.70710678, "root": 0.7978845608,
    "cubic": 0.044715,
}  # fmt: skip


def gelu(text, *, dtype="float", opset=20, shape=(), outputs="", **numbers):
    numpy = {"float": np.float32, "float16": np.float16, "double": np.float64}[dtype]
    arrays = {name: np.full(shape, number, numpy) for name, number in {**NUMBERS, **numbers}.items()}
    return build(f"g ({dtype}[N, 4, 5] x) => ({dtype}[N, 4, 5] y{outputs}) {{ {text} }}", arrays, opset=opset)


def step(model):
    infer_shapes(model)
    return fuse_gelus(model)


@pytest.mark.parametrize(("name", "text"), FORMS, ids=[f"{i}: {name}" for i, (name, _) in enumerate(FORMS)])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_every_form(check, name, text, shape):
    changed = check(gelu(text, shape=shape), step)
    assert (changed.count, changed.ops) == (1, ["Gelu"])
    expected = "none" if (name, text) in BY_ERF.items() else "tanh"
    assert changed.model.graph[0].attributes.get_string("approximate") == expected


BERT, GPT_2 = BY_ERF["BERT"], BY_TANH["GPT-2"]


@pytest.mark.parametrize("text", [BERT, GPT_2])
@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_other_types(check, text, dtype):
    """ONNX Runtime computes Tanh and Erf of doubles no more exactly than Gelu of floats, so only the graph is seen."""
    proto = gelu(text, dtype=dtype)
    if dtype == "float16":
        assert check(proto, step).ops == ["Gelu"]
    else:
        model = load(proto)
        assert (step(model), len(model.graph)) == (1, 1)


def test_rough_constants_move_outputs_a_little(check):
    assert check(gelu(BERT, r2=1.4142), step).ops == ["Gelu"]


def test_in_single_precision_between_halves(check):
    text = f"x = Cast <to = 1> (h16) {BERT.replace('y = Mul', 'm = Mul')} y = Cast <to = 10> (m)"
    arrays = {name: np.float32(number) for name, number in NUMBERS.items()}
    proto = build(f"g (float16[N, 4] h16) => (float16[N, 4] y) {{ {text} }}", arrays, opset=20)
    assert check(proto, step).ops == ["Cast", "Gelu", "Cast"]


def test_bodies_and_several_at_once(check):
    body = "b0 = Mul (v, half) b1 = Div (v, r2) b2 = Erf (b1) b3 = Add (b2, one) i = Mul (b0, b3)"
    text = f"""
    g (float[N, 4] x, bool flag) => (float[N, 4] y) {{
      {GPT_2.replace("y = ", "v = ")}
      y = If (flag) <then_branch = p () => (float[N, 4] i) {{ {body} }},
                  else_branch = r () => (float[N, 4] j) {{ j = Neg (v) }}>
    }}
    """
    arrays = {name: np.float32(number) for name, number in NUMBERS.items()}
    changed = check(build(text, arrays, opset=20), step)
    assert (changed.count, changed.ops) == (2, ["Gelu", "If", "Gelu", "Neg"])


@pytest.mark.parametrize(
    "proto",
    [
        gelu(BERT, opset=19),
        gelu(BERT, r2=1.5),
        gelu(BERT, one=1.01),
        gelu(GPT_2, cubic=0.04),
        gelu(BERT.replace("d = Div (x, r2)", "d = Div (r2, x)")),
        gelu(BERT.replace("Erf", "Tanh")),
        gelu(BERT, outputs=", float[N, 4, 5] e"),
        gelu(f"{BERT.replace('y = ', 'w = ')} y = Add (w, a)"),  # the inside is read again
        gelu("s = Sigmoid (x) y = Mul (x, s)"),
    ],
)
def test_what_is_none_stays(proto):
    model = load(proto)
    before = len(model.graph)
    assert step(model) == 0
    assert len(model.graph) == before
