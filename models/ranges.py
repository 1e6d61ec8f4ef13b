"""Ranges that ruin a naive quantizer: outliers, dead channels, joined scales, odd Clip bounds."""

import numpy as np
import onnx

from models.build import Weights, build
from models.registry import Case, register

IMAGE_SIZE = 640.0


def detection_head() -> onnx.ModelProto:
    """Concat of box coordinates (0..640) with class scores (0..1): one scale for both erases the scores."""
    weights = Weights(120)
    weights.conv("stem", 16, 3, 3, 3)
    weights.conv("box", 4, 16, 1, 1)
    weights.conv("cls", 8, 16, 1, 1)
    weights.arrays["size"] = np.array(IMAGE_SIZE, np.float32)
    weights.integers("flat", 0, 0, -1)
    text = """detection_head (float[N, 3, 8, 8] x) => (float[N, 12, 64] y) {
        s = Conv <pads = [1, 1, 1, 1]> (x, stem_w, stem_b)
        r = Relu (s)
        box = Conv (r, box_w, box_b)
        unit = Sigmoid (box)
        pixels = Mul (unit, size)
        cls = Conv (r, cls_w, cls_b)
        scores = Sigmoid (cls)
        pixels_f = Reshape (pixels, flat)
        scores_f = Reshape (scores, flat)
        y = Concat <axis = 1> (pixels_f, scores_f)
    }"""
    return build(text, weights.arrays)


def outliers(size: float = 1e4) -> onnx.ModelProto:
    """One channel of the hidden activation is ``size`` times larger, and the next weight undoes it."""
    weights = Weights(121)
    weights.linear("a", 16, 32)
    weights.linear("b", 32, 8)
    weights.arrays["a_w"][:, 5] *= size
    weights.arrays["b_w"][5] /= size
    text = """outliers (float[N, 16] x) => (float[N, 8] y) {
        m = MatMul (x, a_w)
        a = Add (m, a_b)
        r = Relu (a)
        n = MatMul (r, b_w)
        y = Add (n, b_b)
    }"""
    return build(text, weights.arrays)


def dead_relu() -> onnx.ModelProto:
    """Relu of values that are all negative: the activation is always zero."""
    weights = Weights(122)
    weights.conv("c", 4, 3, 3, 3)
    weights.conv("d", 4, 4, 3, 3)
    weights.arrays["c_b"] -= 100
    text = """dead_relu (float[N, 3, 8, 8] x) => (float[N, 4, 4, 4] y) {
        c = Conv (x, c_w, c_b)
        r = Relu (c)
        y = Conv (r, d_w, d_b)
    }"""
    return build(text, weights.arrays)


def dead_channels() -> onnx.ModelProto:
    """Weights with all-zero and with denormal channels, as pruning and weight decay leave them."""
    weights = Weights(123)
    weights.conv("c", 8, 3, 3, 3)
    weights.arrays["c_w"][2] = 0
    weights.arrays["c_w"][5] *= 1e-40
    text = """dead_channels (float[N, 3, 6, 6] x) => (float[N, 8, 4, 4] y) {
        y = Conv (x, c_w, c_b)
    }"""
    return build(text, weights.arrays)


def odd_clip(low: float = 1.0, high: float = 3.0) -> onnx.ModelProto:
    """Clip whose interval does not start at zero: no quantized range clips exactly like it."""
    weights = Weights(124)
    weights.conv("c", 4, 3, 3, 3)
    weights.conv("d", 4, 4, 1, 1)
    weights.arrays |= {"low": np.array(low, np.float32), "high": np.array(high, np.float32)}
    text = """odd_clip (float[N, 3, 6, 6] x) => (float[N, 4, 4, 4] y) {
        c = Conv (x, c_w, c_b)
        k = Clip (c, low, high)
        y = Conv (k, d_w, d_b)
    }"""
    return build(text, weights.arrays)


def constant_activation() -> onnx.ModelProto:
    """An activation that is the same number for every input."""
    weights = Weights(125)
    weights.linear("a", 8, 8)
    weights.arrays |= {"zero": np.array(0, np.float32), "seven": np.array(7, np.float32)}
    text = """constant_activation (float[N, 8] x) => (float[N, 8] y) {
        z = Mul (x, zero)
        s = Add (z, seven)
        m = MatMul (s, a_w)
        y = Add (m, a_b)
    }"""
    return build(text, weights.arrays)


register(Case(name="ranges/detection_head", build=detection_head, what="boxes and scores in one tensor"))
register(Case(name="ranges/outliers", build=outliers, what="one channel ten thousand times larger"))
register(Case(name="ranges/dead_relu", build=dead_relu, what="an activation that is always zero"))
register(Case(name="ranges/dead_channels", build=dead_channels, what="zero and denormal weight channels"))
register(Case(name="ranges/odd_clip", build=odd_clip, what="Clip to [1, 3]"))
register(Case(name="ranges/constant", build=constant_activation, what="an activation that never changes"))
