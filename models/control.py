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


def scan_cell() -> onnx.ModelProto:
    """A recurrent cell as a Scan over the rows of a sequence; cell weights are outer, and the state is carried."""
    weights = Weights(15)
    weights.linear("in", 6, 8)
    weights.linear("state", 8, 8)
    weights.arrays |= {"start": np.zeros(8, np.float32)}
    text = """scan_cell (float[S, 6] x) => (float[8] last, float[S, 8] y) {
        last, y = Scan <num_scan_inputs = 1,
            body = cell (float[8] h, float[6] row) => (float[8] h_out, float[8] out) {
                zero = Constant <value = int64[1] {0}> ()
                h_row = Unsqueeze (h, zero)
                x_row = Unsqueeze (row, zero)
                a = MatMul (x_row, in_w)
                b = MatMul (h_row, state_w)
                s = Add (a, b)
                t = Add (s, state_b)
                wide = Tanh (t)
                h_out = Squeeze (wide, zero)
                out = Identity (h_out)
            }
        > (start, x)
    }"""
    return build(text, weights.arrays)


def carried_weights() -> onnx.ModelProto:
    """A recurrent cell whose weights are states of its Loop, as exporters of Keras write it."""
    weights = Weights(18)
    weights.linear("in", 6, 8)
    weights.normal("state_w", 8, 8)
    weights.arrays |= {"start": np.zeros((1, 8), np.float32), "go": np.array(True), "rows": np.array(4, np.int64)}
    text = """carried_weights (float[4, 6] x) => (float[1, 8] last, float[R, 1, 8] y, float[6, 8] same) {
        last, kept, same, unused, y = Loop (rows, go, start, state_w, in_w, in_b) <
            body = cell (int64 i, bool go_in, float[1, 8] h, float[8, 8] u, float[6, 8] w, float[8] b)
                => (bool go_out, float[1, 8] h_out, float[8, 8] u_out, float[6, 8] w, float[8] b_out, float[1, 8] out)
            {
                go_out = Identity (go_in)
                axis = Constant <value = int64[1] {0}> ()
                row = Gather <axis = 0> (x, i)
                wide = Unsqueeze (row, axis)
                m = MatMul (wide, w)
                n = MatMul (h, u)
                s = Sum (m, n, b)
                h_out = Tanh (s)
                u_out = Identity (u)
                b_out = Identity (b)
                out = Identity (h_out)
            }
        >
    }"""
    return build(text, weights.arrays)


def growing_loop() -> onnx.ModelProto:
    """A decoder without cache: each trip appends a row to what it carries, and reads all of it again."""
    weights = Weights(16)
    weights.linear("up", 8, 16)
    weights.linear("down", 16, 8)
    weights.arrays |= {"go": np.array(True), "last": np.array([-1])}
    text = """growing_loop (float[1, 8] x, int64 trips) => (float[T, 8] y, float[R, 1, 8] rows) {
        y, rows = Loop (trips, go, x) <
            body = step (int64 i, bool go_in, float[T, 8] h) => (bool go_out, float[U, 8] longer, float[1, 8] row) {
                go_out = Identity (go_in)
                m = MatMul (h, up_w)
                s = Add (m, up_b)
                r = Relu (s)
                n = MatMul (r, down_w)
                row = Gather <axis = 0> (n, last)
                longer = Concat <axis = 0> (h, row)
            }
        >
    }"""
    return build(text, weights.arrays)


def shared_branches() -> onnx.ModelProto:
    """Weight, bias and an activation that the main graph and both branches read; a Loop in a branch reads them too."""
    weights = Weights(17)
    weights.conv("c", 8, 8, 3, 3)
    weights.conv("first", 8, 3, 3, 3)
    weights.arrays |= {"trips": np.array(2, np.int64), "go": np.array(True)}
    shape = "float[N, 8, 6, 6]"
    conv = "Conv <pads = [1, 1, 1, 1]>"
    text = f"""shared_branches (float[N, 3, 6, 6] x, bool flag) => ({shape} y, {shape} z) {{
        f = {conv} (x, first_w, first_b)
        h = Relu (f)
        m = {conv} (h, c_w, c_b)
        z = Relu (m)
        y = If (flag) <
            then_branch = yes () => ({shape} a) {{
                p = {conv} (h, c_w, c_b)
                a = Add (p, m)
            }},
            else_branch = no () => ({shape} b) {{
                b = Loop (trips, go, h) <
                    body = step (int64 i, bool go_in, {shape} v) => (bool go_out, {shape} w) {{
                        go_out = Identity (go_in)
                        q = {conv} (v, c_w, c_b)
                        k = {conv} (h, c_w, c_b)
                        w = Add (q, k)
                    }}
                >
            }}
        >
    }}"""
    return build(text, weights.arrays)


register(Case(name="control/if", build=if_captures, what="If bodies that capture activations and weights"))
register(Case(name="control/loop", build=loop_captures, what="Loop that captures a weight"))
register(Case(name="control/nested", build=nested_if, what="Conv inside If inside If"))
register(Case(name="control/function", build=local_function, what="model-local function called twice"))
register(Case(name="control/scan", build=scan_cell, what="a recurrent cell as a Scan", sizes={"S": (3, 5)}))
register(Case(name="control/carried", build=carried_weights, what="Loop that hands its weights from trip to trip"))
register(
    Case(
        name="control/growing",
        build=growing_loop,
        what="Loop that carries a tensor of growing shape",
        below={"trips": 4},
    )
)
register(Case(name="control/shared", build=shared_branches, what="main graph, branches and a Loop share their tensors"))
