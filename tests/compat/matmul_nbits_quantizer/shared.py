"""Models of two products and a lookup, and samples for them."""

import numpy as np
import onnx

from models.build import Array, Weights, build

K, N, OUT, ROWS = 96, 40, 24, 50


def weights_of(seed: int = 11) -> dict[str, Array]:
    """A table [50, 96], and weights [96, 40] and [40, 24]."""
    made = Weights(seed)
    made.normal("table", ROWS, K, gain=7.0)
    made.normal("a", K, N)
    made.normal("b", N, OUT)
    return made.arrays


def products(dtype: type = np.float32, opset: int = 17) -> onnx.ModelProto:
    """x [M, 96] -> MatMul_0 -> Relu_1 -> MatMul_2 -> y [M, 24]."""
    kind = "float" if dtype == np.float32 else "float16"
    arrays = {name: array.astype(dtype) for name, array in weights_of().items() if name != "table"}
    text = f"two ({kind}[M, {K}] x) => ({kind}[M, {OUT}] y) {{ h = MatMul (x, a) r = Relu (h) y = MatMul (r, b) }}"
    return build(text, arrays, opset=opset)


def lookup() -> onnx.ModelProto:
    """ids [M] -> Gather_0 -> MatMul_1 -> Relu_2 -> MatMul_3 -> y [M, 24]."""
    text = f"""lookup (int64[M] ids) => (float[M, {OUT}] y) {{
        e = Gather (table, ids) h = MatMul (e, a) r = Relu (h) y = MatMul (r, b)
    }}"""
    return build(text, weights_of())


def correlated(rng: np.random.Generator, count: int, rows: int = 32) -> list[dict[str, Array]]:
    """Feeds for ``products`` whose features hang together, as those of real models do."""
    mixing = np.random.default_rng(5).normal(size=(12, K)) * np.random.default_rng(6).uniform(0.1, 3, K)
    return [{"x": (rng.normal(size=(rows, 12)) @ mixing).astype(np.float32)} for _ in range(count)]


def sqnr(exact: Array, found: Array) -> float:
    """Decibels of ``found`` against ``exact``."""
    return float(10 * np.log10(np.square(exact).sum() / np.square(exact - found).sum()))
