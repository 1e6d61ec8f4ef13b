"""Models whose values are not float32: half, double, mixed."""

import numpy as np
import onnx

from models.build import Weights, build
from models.registry import Case, register


def half() -> onnx.ModelProto:
    """A float16 CNN whose input and output are float16 too."""
    weights = _cnn_weights()
    arrays = {name: array.astype(np.float16) for name, array in weights.arrays.items()}
    text = """half (float16[N, 3, 8, 8] x) => (float16[N, 4] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, c_w, c_b)
        r = Relu (c)
        p = GlobalAveragePool (r)
        f = Flatten (p)
        y = Gemm (f, g_w, g_b)
    }"""
    return build(text, arrays)


def half_inside() -> onnx.ModelProto:
    """float32 outside, float16 inside: what converters with ``keep_io_types`` write."""
    weights = _cnn_weights()
    arrays = {name: array.astype(np.float16) for name, array in weights.arrays.items()}
    text = """half_inside (float[N, 3, 8, 8] x) => (float[N, 4] y) {
        h = Cast <to = 10> (x)
        c = Conv <pads = [1, 1, 1, 1]> (h, c_w, c_b)
        r = Relu (c)
        p = GlobalAveragePool (r)
        f = Flatten (p)
        g = Gemm (f, g_w, g_b)
        y = Cast <to = 1> (g)
    }"""
    return build(text, arrays)


def half_subnormal() -> onnx.ModelProto:
    """float16 weights so small that amax / 127 is no normal float16."""
    weights = Weights(111)
    weights.normal("w", 16, 8, gain=1e-4)
    arrays = {"w": weights.arrays["w"].astype(np.float16)}
    return build("half_subnormal (float16[N, 16] x) => (float16[N, 8] y) { y = MatMul (x, w) }", arrays)


def double() -> onnx.ModelProto:
    """A float64 MatMul, which no target runs in integers."""
    weights = Weights(112)
    weights.normal("w", 8, 4)
    arrays = {"w": weights.arrays["w"].astype(np.float64)}
    return build("double (double[N, 8] x) => (double[N, 4] y) { y = MatMul (x, w) }", arrays)


def _cnn_weights() -> Weights:
    weights = Weights(110)
    weights.conv("c", 8, 3, 3, 3)
    weights.linear("g", 8, 4)
    return weights


register(Case(name="precision/half", build=half, what="float16 throughout"))
register(Case(name="precision/half_inside", build=half_inside, what="float16 between Casts"))
register(Case(name="precision/half_subnormal", build=half_subnormal, what="tiny float16 weights"))
register(Case(name="precision/double", build=double, what="float64"))
