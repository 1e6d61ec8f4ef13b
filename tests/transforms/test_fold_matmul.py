"""BatchNormalization after MatMul becomes the MatMul and one Add."""

import numpy as np
import pytest

from models.build import build
from vqonnx.transforms.fold_matmul import fold_batch_norms_after_matmul

RNG = np.random.default_rng(0)
WEIGHTS = {
    "w": RNG.normal(size=(3, 8)).astype(np.float32),
    "b": RNG.normal(size=8).astype(np.float32),
    "row": RNG.normal(size=(1, 1, 8)).astype(np.float32),
    **{name: RNG.normal(size=8).astype(np.float32) for name in ("g", "o", "m")},
    "v": RNG.uniform(0.5, 2, 8).astype(np.float32),
}


def graph(nodes: str, shape: str = "5, 3", out: str = "a, b") -> str:
    return f"g (float[{shape}] x) => (float[{out}] y) {{ {nodes} }}"


@pytest.mark.parametrize("add", ["", "s = Add (p, b)", "s = Add (b, p)"])
def test_with_and_without_a_bias(check, add):
    nodes = f"p = MatMul (x, w) {add} y = BatchNormalization ({'s' if add else 'p'}, g, o, m, v)"
    changed = check(build(graph(nodes), WEIGHTS), fold_batch_norms_after_matmul)
    assert (changed.count, changed.ops) == (1, ["MatMul", "Add"])


@pytest.mark.parametrize(
    ("nodes", "shape", "out"),
    [
        # axis 1 holds the rows, not the columns
        ("p = MatMul (x, w) y = BatchNormalization (p, g, o, m, v)", "5, 8, 3", "a, b, c"),
        # the bias makes the rank 3
        ("p = MatMul (x, w) s = Add (p, row) y = BatchNormalization (s, g5, o5, m5, v5)", "5, 3", "a, b, c"),
        ("p = MatMul (x, w) q = Add (p, p) y = BatchNormalization (q, g, o, m, v)", "5, 3", "a, b"),
    ],
)
def test_what_must_stay(check, nodes, shape, out):
    fives = {f"{name}5": WEIGHTS[name][:5] for name in ("g", "o", "m", "v")}
    changed = check(build(graph(nodes, shape, out), {**WEIGHTS, **fives}), fold_batch_norms_after_matmul)
    assert changed.count == 0
