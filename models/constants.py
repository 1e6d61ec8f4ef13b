"""Weights that are not initializers: behind Constant, Identity, Cast, Transpose, Reshape, Mul and more."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx

from models.build import Weights, build
from models.registry import Case, register


@dataclass(frozen=True, slots=True)
class Chain:
    """Nodes from ``seed`` to ``w``, which is a float matrix [8, 4]."""

    text: str
    shape: tuple[int, ...] = (8, 4)
    dtype: type[np.floating[Any]] = np.float32


CHAINS = {
    "identity": Chain("w = Identity (seed)"),
    "transpose": Chain("w = Transpose <perm = [1, 0]> (seed)", (4, 8)),
    "reshape": Chain("w = Reshape (seed, to)", (32,)),
    "squeeze": Chain("w = Squeeze (seed, first)", (1, 8, 4)),
    "cast": Chain("w = Cast <to = 1> (seed)", dtype=np.float64),
    "mul": Chain("w = Mul (seed, factor)"),
    "long": Chain(
        """a = Identity (seed)
        c = Cast <to = 1> (a)
        m = Mul (c, factor)
        r = Reshape (m, flip)
        w = Transpose <perm = [1, 0]> (r)""",
        dtype=np.float16,
    ),
}


def weight_chain(chain: Chain) -> onnx.ModelProto:
    """MatMul whose weight is computed from an initializer."""
    weights = Weights(3)
    weights.integers("to", 8, 4)
    weights.integers("flip", 4, 8)
    weights.integers("first", 0)
    weights.arrays["factor"] = np.array([0.5], np.float32)
    arrays = {name: array for name, array in weights.arrays.items() if name in chain.text}
    arrays["seed"] = np.random.default_rng(3).normal(0, 0.4, chain.shape).astype(chain.dtype)
    text = f"chain (float[N, 8] x) => (float[N, 4] y) {{\n{chain.text}\ny = MatMul (x, w)\n}}"
    return build(text, arrays)


def constant_nodes() -> onnx.ModelProto:
    """Conv and Gemm whose weights, and Clip whose bounds, stand in Constant nodes, as old exporters write."""
    weights = Weights(4)
    weights.conv("c", 8, 3, 3, 3)
    weights.linear("g", 8, 5)
    weights.arrays |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
    text = """constant_nodes (float[N, 3, 8, 8] x) => (float[N, 5] y) {
        c = Conv <pads = [1, 1, 1, 1]> (x, c_w, c_b)
        r = Clip (c, low, high)
        p = GlobalAveragePool (r)
        f = Flatten (p)
        y = Gemm (f, g_w, g_b)
    }"""
    model = build(text, weights.arrays)
    constants = [
        onnx.helper.make_node("Constant", [], [tensor.name], name=f"Constant_{tensor.name}", value=tensor)
        for tensor in model.graph.initializer
    ]
    nodes = [*constants, *model.graph.node]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    return model


def sparse_weight() -> onnx.ModelProto:
    """MatMul whose weight is a sparse initializer: a third of its values are stored."""
    dense = np.zeros((6, 4), np.float32)
    model = build("sparse (float[N, 6] x) => (float[N, 4] y) {\ny = MatMul (x, w)\n}", {"w": dense})
    del model.graph.initializer[:]
    rng = np.random.default_rng(5)
    places = np.sort(rng.choice(24, 8, replace=False))
    values = onnx.numpy_helper.from_array(rng.normal(0, 1, 8).astype(np.float32), "w")
    indices = onnx.numpy_helper.from_array(places.astype(np.int64), "w_indices")
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [6, 4]))
    return model


def duplicate_weights() -> onnx.ModelProto:
    """Two MatMuls whose weights are equal but stored twice."""
    weights = Weights(6)
    weights.normal("w", 8, 8)
    text = """duplicates (float[N, 8] x) => (float[N, 8] y) {
        a = MatMul (x, w)
        r = Relu (a)
        y = MatMul (r, w2)
    }"""
    return build(text, weights.arrays | {"w2": weights.arrays["w"]})


for _name, _chain in CHAINS.items():
    register(
        Case(
            name=f"constants/{_name}",
            build=partial(weight_chain, _chain),
            what="a weight that other nodes compute",
        )
    )
register(Case(name="constants/nodes", build=constant_nodes, what="weights and bounds in Constant nodes"))
register(Case(name="constants/sparse", build=sparse_weight, what="a sparse initializer", inferable=False))
register(Case(name="constants/duplicates", build=duplicate_weights, what="one weight stored twice"))
