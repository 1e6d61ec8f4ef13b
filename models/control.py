"""Control flow: bodies that capture outer values, and model-local functions."""

import numpy as np
import onnx

from models.build import Weights, build
from models.registry import Case, register


def if_captures() -> onnx.ModelProto:
    """If whose branches multiply an outer activation by an outer weight, and by one of their own."""
    weights = Weights(10)
    for name in ("first_w", "outer_w"):
        weights.normal(name, 8, 8)
    inner = ", ".join(map(str, np.random.default_rng(11).normal(0, 0.3, 64).round(3)))
    text = f"""if_captures (float[N, 8] x, bool flag) => (float[N, 8] y) {{
        h = MatMul (x, first_w)
        r = Relu (h)
        y = If (flag) <
            then_branch = yes () => (float[N, 8] a) {{ a = MatMul (r, outer_w) }},
            else_branch = no () => (float[N, 8] b) <float[8, 8] inner_w = {{{inner}}}> {{
                m = MatMul (r, inner_w)
                b = Add (m, x)
            }}
        >
    }}"""
    return build(text, weights.arrays)


def loop_captures() -> onnx.ModelProto:
    """Loop that applies one outer weight three times to the value it carries."""
    weights = Weights(12)
    weights.linear("fc", 8, 8)
    weights.arrays |= {"trips": np.array(3, np.int64), "go": np.array(True)}
    text = """loop_captures (float[N, 8] x) => (float[N, 8] y) {
        y = Loop (trips, go, x) <
            body = step (int64 i, bool go_in, float[N, 8] h) => (bool go_out, float[N, 8] h_out) {
                go_out = Identity (go_in)
                m = MatMul (h, fc_w)
                s = Add (m, fc_b)
                h_out = Tanh (s)
            }
        >
    }"""
    return build(text, weights.arrays)


def nested_if() -> onnx.ModelProto:
    """A Conv two If levels deep; its weight is the outermost graph's."""
    weights = Weights(13)
    weights.conv("c", 4, 4, 3, 3)
    text = """nested_if (float[N, 4, 6, 6] x, bool p, bool q) => (float[N, 4, 6, 6] y) {
        y = If (p) <
            then_branch = outer () => (float[N, 4, 6, 6] a) {
                a = If (q) <
                    then_branch = inner () => (float[N, 4, 6, 6] b) {
                        b = Conv <pads = [1, 1, 1, 1]> (x, c_w, c_b)
                    },
                    else_branch = skip () => (float[N, 4, 6, 6] d) { d = Relu (x) }
                >
            },
            else_branch = same () => (float[N, 4, 6, 6] e) { e = Identity (x) }
        >
    }"""
    return build(text, weights.arrays)


def local_function() -> onnx.ModelProto:
    """Two calls of a model-local function that holds a MatMul; the weights are arguments."""
    weights = Weights(14)
    weights.linear("one", 8, 8)
    weights.linear("two", 8, 4)
    text = """local_function (float[N, 8] x) => (float[N, 4] y) {
        h = local.Dense (x, one_w, one_b)
        y = local.Dense (h, two_w, two_b)
    }"""
    functions = f"""<domain: "local", opset_import: ["": {17}]>
    Dense (data, kernel, offset) => (out) {{
        product = MatMul (data, kernel)
        sum = Add (product, offset)
        out = Relu (sum)
    }}"""
    return build(text, weights.arrays, domains={"local": 1}, functions=functions)


register(Case(name="control/if", build=if_captures, what="If bodies that capture activations and weights"))
register(Case(name="control/loop", build=loop_captures, what="Loop that captures a weight"))
register(Case(name="control/nested", build=nested_if, what="Conv inside If inside If"))
register(Case(name="control/function", build=local_function, what="model-local function called twice"))
