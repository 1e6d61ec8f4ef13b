"""One initializer with several readers, which do not all read it the same way."""

from functools import partial

import numpy as np
import onnx

from models.build import Weights, build
from models.registry import Case, register

_VOCABULARY, _WIDTH = 20, 8


def tied_embedding(operator: str) -> onnx.ModelProto:
    """A table [V, D] that Gather reads by row and the last layer as its weight.

    Args:
        operator: ``Gemm`` reads it with transB, ``MatMul`` behind a Transpose.
    """
    weights = Weights(140)
    weights.normal("table", _VOCABULARY, _WIDTH, gain=3.0)
    weights.linear("a", _WIDTH, _WIDTH)
    last = {
        "Gemm": "y = Gemm <transB = 1> (r, table)",
        "MatMul": "t = Transpose <perm = [1, 0]> (table)\ny = MatMul (r, t)",
    }
    text = f"""tied_embedding (int64[N] ids) => (float[N, {_VOCABULARY}] y) {{
        e = Gather (table, ids)
        a = Gemm (e, a_w, a_b)
        r = Relu (a)
        {last[operator]}
    }}"""
    return build(text, weights.arrays)


def both_ways() -> onnx.ModelProto:
    """One square weight read by Gemm with and without transB: its output axis is 1 and 0."""
    weights = Weights(141)
    weights.linear("a", _WIDTH, _WIDTH)
    weights.arrays["a_w"] *= np.geomspace(0.1, 10, _WIDTH, dtype=np.float32)
    text = f"""both_ways (float[N, {_WIDTH}] x) => (float[N, {_WIDTH}] y) {{
        g = Gemm (x, a_w, a_b)
        r = Relu (g)
        y = Gemm <transB = 1> (r, a_w, a_b)
    }}"""
    return build(text, weights.arrays)


def one_bias() -> onnx.ModelProto:
    """One bias under two Convs whose inputs, and so bias scales, differ a hundredfold."""
    weights = Weights(142)
    weights.conv("c", 4, 3, 3, 3)
    weights.normal("d_w", 4, 3, 3, 3)
    weights.arrays["hundred"] = np.array(100, np.float32)
    text = """one_bias (float[N, 3, 6, 6] x) => (float[N, 4, 4, 4] y) {
        big = Mul (x, hundred)
        c = Conv (x, c_w, c_b)
        d = Conv (big, d_w, c_b)
        y = Add (c, d)
    }"""
    return build(text, weights.arrays)


def one_weight() -> onnx.ModelProto:
    """One weight and bias under the same Conv applied twice, as in recurrent refinement."""
    weights = Weights(143)
    weights.conv("c", 4, 4, 3, 3)
    text = """one_weight (float[N, 4, 6, 6] x) => (float[N, 4, 6, 6] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, c_w, c_b)
        r = Relu (c)
        y = Conv <pads = [1, 1, 1, 1]> (r, c_w, c_b)
    }"""
    return build(text, weights.arrays)


def weight_and_value() -> onnx.ModelProto:
    """An initializer that is a weight here and an addend there."""
    weights = Weights(144)
    weights.normal("w", _WIDTH, _WIDTH)
    text = f"""weight_and_value (float[{_WIDTH}, {_WIDTH}] x) => (float[{_WIDTH}, {_WIDTH}] y) {{
        m = MatMul (x, w)
        y = Add (m, w)
    }}"""
    return build(text, weights.arrays)


for _operator in ("Gemm", "MatMul"):
    register(
        Case(
            name=f"sharing/tied_{_operator.lower()}",
            build=partial(tied_embedding, _operator),
            what=f"an embedding table that is also the weight of {_operator}",
            below={"ids": _VOCABULARY},
        )
    )
register(Case(name="sharing/both_ways", build=both_ways, what="a weight read with and without transB"))
register(Case(name="sharing/one_bias", build=one_bias, what="a bias under two inputs of unlike range"))
register(Case(name="sharing/one_weight", build=one_weight, what="a Conv applied twice"))
register(Case(name="sharing/weight_and_value", build=weight_and_value, what="a weight that is also added"))
