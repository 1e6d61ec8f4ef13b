"""Long chains: how the cost of graph work grows with the number of nodes."""

import onnx

from models.build import Weights, build
from models.registry import Case, register


def conv_chain(nodes: int, channels: int = 4, size: int = 4) -> onnx.ModelProto:
    """``nodes`` Conv -> Relu pairs with 1x1 kernels, each with its own weight and bias."""
    weights = Weights(nodes)
    lines = []
    for i in range(nodes):
        weights.normal(f"w{i}", channels, channels, 1, 1, gain=1.4)
        weights.bias(f"b{i}", channels)
        source = f"r{i - 1}" if i else "x"
        target = "y" if i == nodes - 1 else f"r{i}"
        lines.append(f"c{i} = Conv ({source}, w{i}, b{i})\n{target} = Relu (c{i})")
    shape = f"N, {channels}, {size}, {size}"
    text = f"conv_chain (float[{shape}] x) => (float[{shape}] y) {{\n" + "\n".join(lines) + "\n}"
    return build(text, weights.arrays)


def matmul_chain(nodes: int, width: int = 16) -> onnx.ModelProto:
    """``nodes`` MatMul -> Tanh pairs without biases."""
    weights = Weights(nodes)
    lines = []
    for i in range(nodes):
        weights.normal(f"w{i}", width, width)
        source = f"t{i - 1}" if i else "x"
        target = "y" if i == nodes - 1 else f"t{i}"
        lines.append(f"m{i} = MatMul ({source}, w{i})\n{target} = Tanh (m{i})")
    text = f"matmul_chain (float[N, {width}] x) => (float[N, {width}] y) {{\n" + "\n".join(lines) + "\n}"
    return build(text, weights.arrays)


register(Case(name="chains/conv", build=lambda: conv_chain(12), what="Conv -> Relu, twelve times"))
register(Case(name="chains/matmul", build=lambda: matmul_chain(6), what="MatMul -> Tanh, six times"))
