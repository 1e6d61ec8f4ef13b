"""Constant weights in all the places from which products and lookups read them."""

from functools import partial

import ml_dtypes
import numpy as np
import onnx

from models.build import Array, Weights, build
from models.registry import Case, register

_K, _N, _V = 48, 20, 24

# name -> (opset, nodes that make the weight t [K, N] of what is stored, shape and type of that)
_CHAINS: dict[str, tuple[int, str, tuple[int, ...], type]] = {
    "transpose": (17, "t = Transpose (w)", (_N, _K), np.float32),
    "identity": (17, "i = Identity (w) t = Identity (i)", (_K, _N), np.float32),
    "cast_half": (17, "t = Cast <to = 1> (w)", (_K, _N), np.float16),
    "cast_bfloat16": (17, "i = Transpose <perm = [1, 0]> (w) t = Cast <to = 1> (i)", (_N, _K), ml_dtypes.bfloat16),
    "flat": (17, "s = Constant <value_ints = [48, -1]> () t = Reshape (w, s)", (_K * _N,), np.float32),
    "turned_flat": (
        17,
        "s = Constant <value_ints = [20, 48]> () r = Reshape (w, s) t = Transpose (r)",
        (_N * _K,),
        np.float32,
    ),
    "axes": (
        17,
        """a = Constant <value_ints = [0]> () u = Unsqueeze (w, a) p = Transpose <perm = [0, 2, 1]> (u)
        t = Squeeze (p, a)""",
        (_N, _K),
        np.float32,
    ),
    "flatten": (17, "t = Flatten <axis = 2> (w)", (6, 8, _N), np.float32),
    "factor": (17, "f = Constant <value_float = 0.25> () t = Mul (f, w)", (_K, _N), np.float32),
    "quotient": (17, "f = Constant <value_floats = [3.0]> () t = Div (w, f)", (_K, _N), np.float32),
    "old_axes": (11, "u = Unsqueeze <axes = [0]> (w) t = Squeeze <axes = [0]> (u)", (_K, _N), np.float32),
}


def chain(name: str) -> onnx.ModelProto:
    """MatMul whose weight stands behind the nodes that this name stands for."""
    opset, nodes, shape, dtype = _CHAINS[name]
    weights = Weights(160)
    weights.normal("w", *shape, gain=0.5)
    arrays: dict[str, Array] = {"w": weights.arrays["w"].astype(dtype)}
    text = f"chain (float[N, {_K}] x) => (float[N, {_N}] y) {{ {nodes} y = MatMul (x, t) }}"
    return build(text, arrays, opset=opset)


def in_constant_nodes() -> onnx.ModelProto:
    """Weights that are values of Constant nodes, in the main graph and in a body."""
    numbers = ", ".join(f"{number:.3f}" for number in np.random.default_rng(161).normal(0, 0.2, 16 * 18))
    constant = f"Constant <value = float[16, 18] {{{numbers}}}> ()"
    text = f"""in_constant_nodes (float[N, 16] x, bool flag) => (float[N, 18] y) {{
        w = {constant}
        h = MatMul (x, w)
        y = If (flag) <
            then_branch = yes () => (float[N, 18] a) {{ v = {constant} m = MatMul (x, v) a = Tanh (m) }},
            else_branch = no () => (float[N, 18] b) {{ b = Relu (h) }}
        >
    }}"""
    return build(text)


def gemm_forms() -> onnx.ModelProto:
    """Gemm with every attribute, and with biases of all shapes that broadcast, one of them computed."""
    weights = Weights(162)
    for name, shape in {"w1": (16, 24), "w2": (12, 24), "w3": (12, 8), "w4": (3, 8)}.items():
        weights.normal(name, *shape)
    for name, bias_shape in {"b1": (24,), "b2": (1,), "b3": (3, 1), "b5": (1, 3)}.items():
        weights.bias(name, *bias_shape)
    text = """gemm_forms (float[16, 3] x) => (float[3, 3] y) {
        a = Gemm <transA = 1, alpha = 0.5> (x, w1, b1)
        b = Gemm <transB = 1, beta = 0.25> (a, w2, b2)
        c = Gemm <alpha = -2.0, beta = 3.0> (b, w3, b3)
        d = Gemm <transB = 1> (c, w4)
        e = Gemm <transB = 1, beta = 0.0> (c, w4, d)
        f = Add (d, e)
        y = Add (f, b5)
    }"""
    return build(text, weights.arrays)


def leading_ones() -> onnx.ModelProto:
    """Weights [1, K, N] and [1, 1, K, N]; the last one adds an axis to the result."""
    weights = Weights(163)
    weights.normal("a", 1, 16, 24)
    weights.normal("b", 1, 1, 24, 20)
    text = """leading_ones (float[N, 3, 16] x) => (float[1, N, 3, 20] y) {
        h = MatMul (x, a)
        y = MatMul (h, b)
    }"""
    return build(text, weights.arrays)


def pointwise() -> onnx.ModelProto:
    """1x1 Convs over one and two axes, and four that are none: padded, strided, grouped, 3x3."""
    weights = Weights(164)
    for name, shape in {"a": (20, 16, 1, 1), "b": (20, 20, 1, 1), "d": (20, 10, 1, 1), "e": (16, 20, 3, 3)}.items():
        weights.conv(name, *shape)
    weights.conv("f", 12, 16, 1)
    text = """pointwise (float[N, 16, 6, 6] x) => (float[N, 12, 4] y) {
        a = Conv <kernel_shape = [1, 1], strides = [1, 1], pads = [0, 0, 0, 0]> (x, a_w, a_b)
        b = Conv <pads = [1, 1, 1, 1]> (a, b_w, b_b)
        c = Conv <strides = [2, 2]> (b, b_w)
        d = Conv <group = 2> (c, d_w, d_b)
        e = Conv (d, e_w, e_b)
        s = Constant <value_ints = [0, 16, -1]> ()
        r = Reshape (e, s)
        y = Conv <auto_pad = "SAME_UPPER"> (r, f_w, f_b)
    }"""
    return build(text, weights.arrays)


def quantized(form: str) -> onnx.ModelProto:
    """A product whose weight is quantized: per channel, in blocks, by com.microsoft's operator, or as MatMulNBits."""
    rng = np.random.default_rng(165)
    codes = rng.integers(-100, 100, (32, 24)).astype(np.int8)
    arrays: dict[str, Array] = {"q": codes, "z": rng.integers(-9, 9, 24).astype(np.int8)}
    arrays["s"] = rng.uniform(0.001, 0.003, 24).astype(np.float32)
    nodes, opset, imports = "w = DequantizeLinear <axis = 1> (q, s, z) y = MatMul (x, w)", 17, {}
    if form == "blocks":
        arrays["s"] = rng.uniform(0.001, 0.003, (2, 24)).astype(np.float32)
        del arrays["z"]
        nodes = "w = DequantizeLinear <axis = 0, block_size = 16> (q, s) y = MatMul (x, w)"
        opset = 21
    elif form == "contrib":
        nodes, imports = nodes.replace("= Deq", "= com.microsoft.Deq"), {"com.microsoft": 1}
    elif form == "packed":
        arrays = {"q": rng.integers(0, 256, (24, 2, 8)).astype(np.uint8), "s": arrays["s"][:, None].repeat(2, 1)}
        nodes = "y = com.microsoft.MatMulNBits <K = 32, N = 24, bits = 4, block_size = 16> (x, q, s)"
        imports = {"com.microsoft": 1}
    text = f"quantized (float[N, 32] x) => (float[N, 24] y) {{ {nodes} }}"
    return build(text, arrays, opset=opset, domains=imports)


def tied_copies() -> onnx.ModelProto:
    """A table [V, D], and as an initializer of its own its transpose [D, V], the weight of the last product.

    Between them two products with equal weights, and the table in the opposite sense.
    """
    weights = Weights(166)
    weights.normal("table", _V, 16, gain=3.0)
    weights.normal("first", 16, 16)
    arrays = weights.arrays | {"head": weights.arrays["table"].T.copy(), "second": weights.arrays["first"].copy()}
    text = f"""tied_copies (int64[N] ids) => (float[N, {_V}] y) {{
        e = Gather (table, ids)
        a = MatMul (e, first)
        r = Tanh (a)
        b = MatMul (r, second)
        c = Gemm <transB = 1> (b, table)
        d = MatMul (c, table)
        t = Tanh (d)
        y = MatMul (t, head)
    }}"""
    return build(text, arrays)


def decoder_with_cache() -> onnx.ModelProto:
    """Logits first in the list of outputs, then keys and values that further layers read too."""
    weights = Weights(167)
    weights.normal("table", _V, 16)
    for name in ("q", "k", "v", "o"):
        weights.normal(name, 16, 16)
    weights.normal("head", 16, _V)
    text = f"""decoder_with_cache (int64[N] ids) => (float[N, {_V}] logits, float[N, 16] keys, float[N, 16] values) {{
        e = Gather (table, ids)
        qs = MatMul (e, q)
        keys = MatMul (e, k)
        kt = Transpose (keys)
        scores = MatMul (qs, kt)
        shares = Softmax (scores)
        values = MatMul (e, v)
        mixed = MatMul (shares, values)
        out = MatMul (mixed, o)
        sum = Add (out, e)
        logits = MatMul (sum, head)
    }}"""
    return build(text, weights.arrays)


def merged_decoder() -> onnx.ModelProto:
    """Both branches of an If hold a whole decoder that reads the same outer weights."""
    weights = Weights(168)
    weights.normal("table", _V, 16)
    weights.normal("inner", 16, 16)
    weights.normal("head", 16, _V)
    text = f"""merged_decoder (int64[N] ids, bool first) => (float[N, {_V}] logits) {{
        e = Gather (table, ids)
        logits = If (first) <
            then_branch = start () => (float[N, {_V}] a) {{ h = MatMul (e, inner) r = Relu (h) a = MatMul (r, head) }},
            else_branch = resume () => (float[N, {_V}] b) {{ i = MatMul (e, inner) t = Tanh (i) b = MatMul (t, head) }}
        >
    }}"""
    return build(text, weights.arrays)


def foreign_names() -> onnx.ModelProto:
    """Operators of other domains that are called like ONNX's own; a function of one of them is given a weight."""
    weights = Weights(169)
    weights.normal("w", 16, 16)
    weights.normal("v", 16, 16)
    text = """foreign_names (float[N, 16] x) => (float[N, 16] y) {
        a = local.MatMul (x, w)
        b = com.microsoft.FusedMatMul <alpha = 0.5> (a, v)
        y = old.Gemm <scale = 2.0> (b)
    }"""
    functions = """<domain: "local", opset_import: ["": 17]>
    MatMul (left, right) => (out) { m = MatMul (left, right) out = Relu (m) }
    <domain: "old", opset_import: ["": 16]>
    Gemm <scale> (data) => (out) {
        square = Constant <value = float[16, 2] {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0,
            7.0, 8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0}> ()
        m = MatMul (data, square)
        back = Transpose (square)
        out = Gemm <alpha: float = @scale> (m, back)
    }"""
    domains = {"local": 1, "old": 1, "com.microsoft": 1}
    return build(text, weights.arrays, domains=domains, functions=functions)


def half_precision() -> onnx.ModelProto:
    """float16 all through: a table, a product behind a Transpose, a Gemm with alpha."""
    weights = Weights(170)
    weights.normal("table", _V, 16)
    weights.normal("w", 20, 16)
    weights.linear("g", 20, 12)
    arrays = {name: array.astype(np.float16) for name, array in weights.arrays.items()}
    text = """half_precision (int64[N] ids) => (float16[N, 12] y) {
        e = Gather (table, ids)
        t = Transpose (w)
        m = MatMul (e, t)
        y = Gemm <alpha = 0.5> (m, g_w, g_b)
    }"""
    return build(text, arrays)


def deep(layers: int = 60) -> onnx.ModelProto:
    """Products in a row, each under a name of its own; a small language model has some hundreds."""
    weights = Weights(171)
    lines = []
    for layer in range(layers):
        weights.normal(f"layers.{layer}.weight", 32, 32)
        lines.append(
            f"""m{layer} = MatMul (r{layer}, "layers.{layer}.weight")
            t{layer} = Tanh (m{layer})
            r{layer + 1} = Add (r{layer}, t{layer})"""
        )
    text = f"deep (float[N, 32] r0) => (float[N, 32] y) {{ {' '.join(lines)} y = Identity (r{layers}) }}"
    return build(text, weights.arrays)


for _name in _CHAINS:
    register(Case(name=f"weights/{_name}", build=partial(chain, _name), what=f"a weight behind nodes: {_name}"))
for _form in ("channels", "blocks", "contrib", "packed"):
    register(Case(name=f"weights/quantized_{_form}", build=partial(quantized, _form), what="a quantized weight"))
register(Case(name="weights/constants", build=in_constant_nodes, what="weights in Constant nodes, one in a body"))
register(Case(name="weights/gemm", build=gemm_forms, what="all attributes and biases of Gemm"))
register(Case(name="weights/leading_ones", build=leading_ones, what="weights with axes of size 1"))
register(Case(name="weights/pointwise", build=pointwise, what="1x1 Convs and some that are none"))
register(Case(name="weights/tied", build=tied_copies, what="equal and transposed copies", below={"ids": _V}))
register(Case(name="weights/cache", build=decoder_with_cache, what="outputs that layers read", below={"ids": _V}))
register(Case(name="weights/merged", build=merged_decoder, what="two decoders in an If", below={"ids": _V}))
register(Case(name="weights/foreign", build=foreign_names, what="ONNX's names in other domains"))
register(Case(name="weights/half", build=half_precision, what="float16 tables and products", below={"ids": _V}))
register(Case(name="weights/deep", build=partial(deep, 6), what="products with names as PyTorch gives them"))
