"""Gemm: every legal bias shape, transposition, alpha and beta."""

from functools import partial

import numpy as np
import onnx

from models.build import Weights, build
from models.registry import Case, register

ROWS, INNER, COLUMNS = 3, 8, 5
# Gemm broadcasts C one way to [M, N].
BIAS_SHAPES: dict[str, tuple[int, ...] | None] = {
    "none": None,
    "scalar": (),
    "one": (1,),
    "one_one": (1, 1),
    "vector": (COLUMNS,),
    "row": (1, COLUMNS),
    "column": (ROWS, 1),
    "matrix": (ROWS, COLUMNS),
}


def gemm(
    bias: tuple[int, ...] | None,
    *,
    trans_b: bool = False,
    alpha: float = 1.0,
    beta: float = 1.0,
    size: float = 0.5,
) -> onnx.ModelProto:
    """One Gemm with constant B and C.

    Args:
        bias: Shape of C; None leaves C out.
        trans_b: Store B as [N, K].
        alpha: Factor on the product.
        beta: Factor on C.
        size: Standard deviation of C.
    """
    weights = Weights(60)
    weights.normal("w", *((COLUMNS, INNER) if trans_b else (INNER, COLUMNS)))
    if bias is not None:
        weights.arrays["c"] = np.random.default_rng(61).normal(0, size, bias).astype(np.float32)
    text = f"""gemm (float[{ROWS}, {INNER}] x) => (float[{ROWS}, {COLUMNS}] y) {{
        y = Gemm <alpha = {alpha}, beta = {beta}, transB = {int(trans_b)}> (x, w{"" if bias is None else ", c"})
    }}"""
    return build(text, weights.arrays)


def trans_a() -> onnx.ModelProto:
    """Gemm that transposes its activation."""
    weights = Weights(62)
    weights.linear("g", INNER, COLUMNS)
    text = f"""trans_a (float[{INNER}, M] x) => (float[M, {COLUMNS}] y) {{
        y = Gemm <transA = 1> (x, g_w, g_b)
    }}"""
    return build(text, weights.arrays)


def dynamic_bias() -> onnx.ModelProto:
    """Gemm whose C is an activation."""
    weights = Weights(63)
    weights.linear("g", INNER, COLUMNS)
    text = f"""dynamic_bias (float[M, {INNER}] x) => (float[M, {COLUMNS}] y) {{
        c = MatMul (x, g_w)
        r = Relu (c)
        y = Gemm (x, g_w, r)
    }}"""
    return build(text, {"g_w": weights.arrays["g_w"]})


def huge_bias() -> onnx.ModelProto:
    """A bias far past int32 at the scale of its tiny weight, in one of the columns."""
    model = gemm((COLUMNS,))
    weight, bias = (onnx.numpy_helper.to_array(tensor).copy() for tensor in model.graph.initializer)
    weight[:, 2] *= 1e-9
    bias[2] = 1e3
    for tensor, array in zip(model.graph.initializer, (weight, bias), strict=True):
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return model


for _name, _shape in BIAS_SHAPES.items():
    register(Case(name=f"gemm/bias_{_name}", build=partial(gemm, _shape), what=f"Gemm with C of shape {_shape}"))
register(
    Case(
        name="gemm/alpha_beta",
        build=partial(gemm, (COLUMNS,), trans_b=True, alpha=0.25, beta=3.0),
        what="Gemm with transB, alpha and beta",
    )
)
register(Case(name="gemm/beta_zero", build=partial(gemm, (COLUMNS,), beta=0.0), what="Gemm that ignores its C"))
register(Case(name="gemm/trans_a", build=trans_a, what="Gemm with transA", sizes={"M": 3}))
register(Case(name="gemm/dynamic_bias", build=dynamic_bias, what="Gemm whose C is computed"))
register(Case(name="gemm/huge_bias", build=huge_bias, what="a bias that its scale cannot hold"))
