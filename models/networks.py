"""Small networks of the usual kinds: a residual CNN, a transformer encoder, a recurrent one."""

import numpy as np
import onnx

from models.build import Weights, build
from models.registry import Case, register


def residual_cnn(blocks: int = 3, channels: int = 16, size: int = 16) -> onnx.ModelProto:
    """Inverted residual blocks (expand, depthwise, project, add) with Clip(0, 6), as in MobileNetV2."""
    weights = Weights(90)
    weights.conv("stem", channels, 3, 3, 3)
    lines = ["s = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (x, stem_w, stem_b)", "h0 = Clip (s, low, high)"]
    for i in range(blocks):
        weights.conv(f"e{i}", 4 * channels, channels, 1, 1)
        weights.conv(f"d{i}", 4 * channels, 1, 3, 3)
        weights.conv(f"p{i}", channels, 4 * channels, 1, 1)
        lines += [
            f"e{i} = Conv (h{i}, e{i}_w, e{i}_b)",
            f"f{i} = Clip (e{i}, low, high)",
            f"d{i} = Conv <group = {4 * channels}, pads = [1, 1, 1, 1]> (f{i}, d{i}_w, d{i}_b)",
            f"g{i} = Clip (d{i}, low, high)",
            f"p{i} = Conv (g{i}, p{i}_w, p{i}_b)",
            f"h{i + 1} = Add (p{i}, h{i})",
        ]
    weights.linear("fc", channels, 10)
    weights.arrays |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    lines += [f"v = GlobalAveragePool (h{blocks})", "flat = Flatten (v)", "y = Gemm (flat, fc_w, fc_b)"]
    text = f"residual_cnn (float[N, 3, {size}, {size}] x) => (float[N, 10] y) {{\n" + "\n".join(lines) + "\n}"
    return build(text, weights.arrays)


def transformer(layers: int = 2, sequence: int = 12, hidden: int = 32, heads: int = 4) -> onnx.ModelProto:
    """A post-norm encoder over token ids: attention, LayerNormalization, Gelu written out with Erf."""
    weights = Weights(91)
    weights.normal("table", 64, hidden, gain=8.0)
    weights.integers("split", 0, 0, heads, hidden // heads)
    weights.integers("join", 0, 0, hidden)
    weights.arrays |= {
        "root": np.array((hidden // heads) ** -0.5, np.float32),
        "sqrt2": np.array(2**0.5, np.float32),
        "one": np.array(1, np.float32),
        "half": np.array(0.5, np.float32),
    }
    lines = ["h0 = Gather (table, ids)"]
    for i in range(layers):
        lines += _encoder_layer(weights, i, hidden)
    body = "\n".join(lines)
    text = f"""transformer (int64[N, {sequence}] ids) => (float[N, {sequence}, {hidden}] y) {{
        {body}
        y = Identity (h{layers})
    }}"""
    return build(text, weights.arrays)


def _encoder_layer(weights: Weights, i: int, hidden: int) -> list[str]:
    for part in "qkvo":
        weights.linear(f"{part}{i}", hidden, hidden)
    weights.linear(f"up{i}", hidden, 4 * hidden)
    weights.linear(f"down{i}", 4 * hidden, hidden)
    for norm in (f"n{i}", f"l{i}"):
        weights.arrays[f"{norm}_g"] = np.ones(hidden, np.float32)
        weights.bias(f"{norm}_o", hidden)
    perm = {"q": "0, 2, 1, 3", "k": "0, 2, 3, 1", "v": "0, 2, 1, 3"}
    lines = []
    for part, order in perm.items():
        lines += [
            *_linear(f"{part}{i}", f"h{i}"),
            f"{part}{i}_s = Reshape ({part}{i}, split)",
            f"{part}{i}_t = Transpose <perm = [{order}]> ({part}{i}_s)",
        ]
    return [
        *lines,
        f"s{i} = MatMul (q{i}_t, k{i}_t)",
        f"z{i} = Mul (s{i}, root)",
        f"a{i} = Softmax <axis = -1> (z{i})",
        f"c{i} = MatMul (a{i}, v{i}_t)",
        f"c{i}_t = Transpose <perm = [0, 2, 1, 3]> (c{i})",
        f"c{i}_j = Reshape (c{i}_t, join)",
        *_linear(f"o{i}", f"c{i}_j"),
        f"r{i} = Add (o{i}, h{i})",
        f"n{i} = LayerNormalization (r{i}, n{i}_g, n{i}_o)",
        *_linear(f"up{i}", f"n{i}"),
        f"u{i} = Div (up{i}, sqrt2)",
        f"f{i} = Erf (u{i})",
        f"p{i} = Add (f{i}, one)",
        f"m{i} = Mul (up{i}, p{i})",
        f"g{i} = Mul (m{i}, half)",
        *_linear(f"down{i}", f"g{i}"),
        f"w{i} = Add (down{i}, n{i})",
        f"h{i + 1} = LayerNormalization (w{i}, l{i}_g, l{i}_o)",
    ]


def _linear(name: str, source: str) -> tuple[str, str]:
    return f"{name}_m = MatMul ({source}, {name}_w)", f"{name} = Add ({name}_m, {name}_b)"


def recurrent(hidden: int = 8) -> onnx.ModelProto:
    """LSTM between two linear layers: it has weights, but no integer kernel."""
    weights = Weights(92)
    weights.linear("a", 4, hidden)
    weights.normal("w", 1, 4 * hidden, hidden)
    weights.normal("r", 1, 4 * hidden, hidden)
    weights.linear("b", hidden, 3)
    weights.integers("axis", 1)
    text = f"""recurrent (float[S, N, 4] x) => (float[S, N, 3] y) {{
        a_m = MatMul (x, a_w)
        a = Add (a_m, a_b)
        l = LSTM <hidden_size = {hidden}> (a, w, r)
        q = Squeeze (l, axis)
        b_m = MatMul (q, b_w)
        y = Add (b_m, b_b)
    }}"""
    return build(text, weights.arrays)


register(Case(name="networks/residual_cnn", build=residual_cnn, what="inverted residuals with Clip(0, 6)"))
register(Case(name="networks/transformer", build=transformer, what="an encoder with embedding", below={"ids": 64}))
register(Case(name="networks/recurrent", build=recurrent, what="an LSTM between linear layers"))
