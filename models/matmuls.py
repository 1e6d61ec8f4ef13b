"""MatMul: weights of any rank, on either side, with and without a bias."""

from functools import partial

import onnx

from models.build import Weights, build
from models.registry import Case, register

# name -> (shape of x, shape of the weight, shape of y)
_RANKS = {
    "2d": ("N, 8", (8, 5), "N, 5"),
    "3d_shared": ("N, S, 8", (8, 5), "N, S, 5"),
    "3d": ("4, S, 8", (4, 8, 5), "4, S, 5"),
    "4d": ("N, 3, S, 8", (1, 3, 8, 5), "N, 3, S, 5"),
    "vector": ("N, 8", (8,), "N"),
}


def matmul(rank: str) -> onnx.ModelProto:
    """``x @ w`` with a weight of the rank that this name stands for."""
    source, shape, target = _RANKS[rank]
    weights = Weights(70)
    weights.normal("w", *shape)
    return build(f"matmul (float[{source}] x) => (float[{target}] y) {{ y = MatMul (x, w) }}", weights.arrays)


def weight_first() -> onnx.ModelProto:
    """``w @ x``: the weight is the left operand, so its outputs are rows."""
    weights = Weights(71)
    weights.normal("w", 5, 8)
    return build("weight_first (float[8, N] x) => (float[5, N] y) { y = MatMul (w, x) }", weights.arrays)


def linear_bias() -> onnx.ModelProto:
    """MatMul -> Add of a constant vector, the bias on either side of Add, then a residual Add that is none."""
    weights = Weights(72)
    weights.linear("a", 8, 8)
    weights.linear("b", 8, 8)
    text = """linear_bias (float[N, S, 8] x) => (float[N, S, 8] y) {
        m = MatMul (x, a_w)
        a = Add (m, a_b)
        r = Relu (a)
        n = MatMul (r, b_w)
        b = Add (b_b, n)
        y = Add (b, x)
    }"""
    return build(text, weights.arrays)


def two_activations() -> onnx.ModelProto:
    """MatMul of two activations, as attention does."""
    text = """two_activations (float[N, 4, 8] a, float[N, 8, 5] b) => (float[N, 4, 5] y) {
        y = MatMul (a, b)
    }"""
    return build(text)


for _rank in _RANKS:
    register(Case(name=f"matmuls/{_rank}", build=partial(matmul, _rank), what=f"a MatMul weight: {_rank}"))
register(Case(name="matmuls/weight_first", build=weight_first, what="the weight is the left operand"))
register(Case(name="matmuls/bias", build=linear_bias, what="Add as a bias, on either side, and as none"))
register(Case(name="matmuls/activations", build=two_activations, what="no weight at all"))
