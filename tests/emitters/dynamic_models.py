"""One-node models for each dynamic form, and what they compute with integer weights."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx

from models.build import Array, build

Feed = Mapping[str, Any]


def weights(seed: int = 0, **shapes: tuple[int, ...]) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: (rng.standard_normal(shape) / 4).astype(np.float32) for name, shape in shapes.items()}


def product(k: int = 24, n: int = 12, seed: int = 0) -> onnx.ModelProto:
    text = f"g (float[m, {k}] x) => (float[m, {n}] y) {{ p = MatMul(x, w) y = Add(p, b) }}"
    return build(text, weights(seed, w=(k, n), b=(n,)))


def batch(rows: str = "3, m, 8", weight: tuple[int, ...] = (3, 8, 5), dtype: str = "float") -> onnx.ModelProto:
    """A MatMul with a weight of more than two axes."""
    given = {
        name: array.astype("float16" if dtype == "float16" else "float32") for name, array in weights(w=weight).items()
    }
    rank = max(len(weight), rows.count(",") + 1)
    result = ", ".join(f"r{axis}" for axis in range(rank))
    return build(f"g ({dtype}[{rows}] x) => ({dtype}[{result}] y) {{ y = MatMul(x, w) }}", given)


def recurrent(op: str, *, directions: int = 1, peepholes: bool = False, lengths: bool = False) -> onnx.ModelProto:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    direction = "bidirectional" if directions == 2 else "forward"
    given = weights(w=(directions, gates * 5, 6), r=(directions, gates * 5, 5), b=(directions, 2 * gates * 5))
    extra = ""
    declared = "float[s, n, 6] x"
    if lengths:
        declared += ", int32[n] l"
        extra = ", l"
    if peepholes:
        given |= weights(1, p=(directions, 15))
        extra = (extra or ", ") + ", , , p"
    cell = ", c" if op == "LSTM" else ""
    outputs = f"float[s, {directions}, n, 5] y, float[{directions}, n, 5] h"
    outputs += f", float[{directions}, n, 5] c" if op == "LSTM" else ""
    text = (
        f"g ({declared}) => ({outputs}) "
        f'{{ y, h{cell} = {op} <hidden_size = 5, direction = "{direction}"> (x, w, r, b{extra}) }}'
    )
    return build(text, given)


def attention(*, mask: bool = False, bias: bool = True) -> onnx.ModelProto:
    given = weights(w=(16, 48), b=(48,))
    inputs, extra = "float[b, s, 16] x", ""
    if mask:
        inputs, extra = inputs + ", int32[b, s] m", ", m"
    if not bias:
        given.pop("b")
    text = (
        f"g ({inputs}) => (float[b, s, 16] y) "
        f"{{ y = com.microsoft.Attention <num_heads = 2> (x, w, {'b' if bias else ''}{extra}) }}"
    )
    return build(text, given, domains={"com.microsoft": 1})


def embedding(
    *, segments: bool = True, mask: bool = False, positions: bool = False, outputs: str = "y, m"
) -> onnx.ModelProto:
    """The first layer of a BERT as ONNX Runtime's optimizer fuses it."""
    given = weights(word=(20, 8), position=(9, 8), segment=(2, 8), gamma=(8,), beta=(8,))
    inputs = "int32[b, s] i" + ", int32[b, s] k" * segments + ", int32[b, s] a" * mask + ", int32[b, s] p" * positions
    if not segments:
        given.pop("segment")
    types = {"y": "float[b, s, 8] y", "m": "int32[b] m", "e": "float[b, s, 8] e"}
    declared = ", ".join(types[name] for name in outputs.split(", "))
    last = ", a" if mask else ", " * positions
    flag = int("m" in outputs)
    text = (
        f"g ({inputs}) => ({declared}) {{ {outputs} = com.microsoft.EmbedLayerNormalization "
        f"<epsilon = 1.0e-6, mask_index_type = {flag}> "
        f"(i, {'k' * segments}, word, position, {'segment' * segments}, gamma, beta{last}{', p' * positions}) }}"
    )
    return build(text, given, domains={"com.microsoft": 1})


def convolution(group: int = 1, bias: str = "constant") -> onnx.ModelProto:
    given = weights(w=(8, 4 // group, 3, 3), b=(8,))
    inputs = "float[n, 4, 9, 9] x"
    if bias == "input":
        given.pop("b")
        inputs += ", float[8] b"
    last = "" if bias == "absent" else ", b"
    if bias == "absent":
        given.pop("b")
    text = (
        f"g ({inputs}) => (float[n, 8, 5, 5] y) {{ y = Conv <group = {group}, strides = [2, 2], pads = [1, 1, 1, 1]> "
        f"(x, w{last}) }}"
    )
    return build(text, given)


def tied() -> onnx.ModelProto:
    """A table that a Gather and a Gemm with transB read."""
    text = """g (int64[s] i) => (float[s, 20] y, float[s, 8] e) {
        e = Gather(t, i)
        y = Gemm <transB = 1> (e, t)
    }"""
    return build(text, weights(t=(20, 8)))
