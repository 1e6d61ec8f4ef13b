"""Inputs of varying, unknown or zero size."""

import onnx

from models.build import Weights, build
from models.registry import Case, register


def fully_dynamic() -> onnx.ModelProto:
    """A convolutional network whose batch, height and width all vary."""
    weights = Weights(130)
    weights.conv("c", 6, 3, 3, 3)
    weights.conv("d", 4, 6, 3, 3)
    text = """fully_dynamic (float[N, 3, H, W] x) => (float[N, 4, P, Q] y) {
        c = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, c_w, c_b)
        r = Relu (c)
        y = Conv <pads = [1, 1, 1, 1]> (r, d_w, d_b)
    }"""
    return build(text, weights.arrays)


def rows() -> onnx.ModelProto:
    """Linear layers over a number of rows that may be zero."""
    weights = Weights(131)
    weights.linear("a", 8, 8)
    weights.linear("b", 8, 3)
    text = """rows (float[R, 8] x) => (float[R, 3] y) {
        m = MatMul (x, a_w)
        a = Add (m, a_b)
        r = Relu (a)
        n = MatMul (r, b_w)
        y = Add (n, b_b)
    }"""
    return build(text, weights.arrays)


def no_shapes() -> onnx.ModelProto:
    """A Reshape to a computed shape, behind which only running the model tells the sizes."""
    weights = Weights(132)
    weights.linear("a", 8, 4)
    weights.integers("from_", 0)
    weights.integers("to", 2)
    weights.integers("rest", -1)
    text = """no_shapes (float[N, S, T] x) => (float[A, B, C] y) {
        shape = Shape (x)
        front = Slice (shape, from_, to)
        target = Concat <axis = 0> (front, rest)
        h = Reshape (x, target)
        m = MatMul (h, a_w)
        y = Add (m, a_b)
    }"""
    return build(text, weights.arrays)


def several_inputs() -> onnx.ModelProto:
    """A float image, integer ids and a mask, of which only some lead to a weight."""
    weights = Weights(133)
    weights.linear("a", 8, 8)
    weights.normal("table", 10, 8, gain=3.0)
    text = """several_inputs (float[N, 8] x, int64[N] ids, bool[N, 1] mask) => (float[N, 8] y) {
        e = Gather (table, ids)
        s = Add (x, e)
        m = MatMul (s, a_w)
        y = Where (mask, m, a_b)
    }"""
    return build(text, weights.arrays)


register(
    Case(
        name="shapes/dynamic",
        build=fully_dynamic,
        what="batch, height and width vary by sample",
        sizes={"N": (1, 2), "H": (8, 12, 7), "W": (8, 5)},
    )
)
register(Case(name="shapes/zero_rows", build=rows, what="samples without a row", sizes={"R": (3, 0, 5)}))
register(Case(name="shapes/unknown", build=no_shapes, what="shapes that inference cannot find", sizes={"T": 8}))
register(Case(name="shapes/inputs", build=several_inputs, what="inputs of three types", below={"ids": 10}))
