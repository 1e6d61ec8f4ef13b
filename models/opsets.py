"""One small network in every opset from 7 to 21: what moved from attributes to inputs, and when."""

from functools import partial

import numpy as np
import onnx

from models.build import Weights, build
from models.registry import Case, register

OLDEST, NEWEST = 7, 21


def versioned(opset: int) -> onnx.ModelProto:
    """Conv, BatchNormalization, Clip, Dropout, Unsqueeze and Squeeze, ReduceMean, Pad, Softmax and Gemm."""
    weights = Weights(100)
    weights.conv("c", 6, 3, 3, 3)
    weights.linear("g", 6, 4)
    for part in ("scale", "bias", "mean", "var"):
        weights.bias(f"n_{part}", 6)
    weights.arrays["n_var"] = np.abs(weights.arrays["n_var"]) + 0.5
    clip, pad, squeeze, mean = (write(weights, opset) for write in (_clip, _pad, _squeeze, _mean))
    text = f"""versioned (float[N, 3, 8, 8] x) => (float[N, 4] y) {{
        {pad}
        c = Conv (padded, c_w, c_b)
        n = BatchNormalization (c, n_scale, n_bias, n_mean, n_var)
        {clip}
        dropped = Dropout (clipped)
        {squeeze}
        {mean}
        g = Gemm (pooled, g_w, g_b)
        y = Softmax <axis = 1> (g)
    }}"""
    return build(text, weights.arrays, opset=opset)


def _clip(weights: Weights, opset: int) -> str:
    if opset < 11:
        return "clipped = Clip <min = 0.0, max = 6.0> (n)"
    weights.arrays |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    return "clipped = Clip (n, low, high)"


def _pad(weights: Weights, opset: int) -> str:
    if opset < 11:
        return "padded = Pad <pads = [0, 0, 1, 1, 0, 0, 1, 1]> (x)"
    weights.integers("pads", 0, 0, 1, 1, 0, 0, 1, 1)
    return "padded = Pad (x, pads)"


def _squeeze(weights: Weights, opset: int) -> str:
    if opset < 13:
        return "wide = Unsqueeze <axes = [1]> (dropped)\nnarrow = Squeeze <axes = [1]> (wide)"
    weights.integers("one", 1)
    return "wide = Unsqueeze (dropped, one)\nnarrow = Squeeze (wide, one)"


def _mean(weights: Weights, opset: int) -> str:
    if opset < 18:
        return "pooled = ReduceMean <axes = [2, 3], keepdims = 0> (narrow)"
    weights.integers("plane", 2, 3)
    return "pooled = ReduceMean <keepdims = 0> (narrow, plane)"


for _opset in range(OLDEST, NEWEST + 1):
    register(Case(name=f"opsets/{_opset}", build=partial(versioned, _opset), what=f"written for opset {_opset}"))
