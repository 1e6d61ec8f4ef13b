"""Operators outside the default domain: ONNX Runtime's own, and one that nobody knows."""

import onnx

from models.build import Weights, build
from models.registry import Case, register


def contrib_ops() -> onnx.ModelProto:
    """com.microsoft operators between two MatMuls."""
    weights = Weights(50)
    weights.linear("a", 8, 16)
    weights.linear("b", 16, 4)
    text = """contrib_ops (float[N, 8] x) => (float[N, 4] y) {
        m = MatMul (x, a_w)
        g = com.microsoft.BiasGelu (m, a_b)
        y = com.microsoft.FusedMatMul <alpha = 0.5> (g, b_w)
    }"""
    arrays = {name: array for name, array in weights.arrays.items() if name != "b_b"}
    return build(text, arrays, domains={"com.microsoft": 1})


def unknown_ops() -> onnx.ModelProto:
    """An operator of a domain for which no kernel exists, between two that are known."""
    weights = Weights(51)
    weights.conv("c", 4, 3, 3, 3)
    text = """unknown_ops (float[N, 3, 6, 6] x) => (float[N, 4, 4, 4] y) {
        c = Conv (x, c_w, c_b)
        u = example.vendor.Swizzle <factor = 2, mode = "fast"> (c)
        y = Relu (u)
    }"""
    return build(text, weights.arrays, domains={"example.vendor": 3})


register(Case(name="domains/contrib", build=contrib_ops, what="com.microsoft operators"))
register(Case(name="domains/unknown", build=unknown_ops, what="a vendor's operator", runnable=False, inferable=False))
