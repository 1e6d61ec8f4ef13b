"""What is left of MatMul, Gemm and Conv when their weight is packed: rows in front, a bias behind."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vqonnx.emitters.weights.replacement import Replacement
from vqonnx.errors import UnsupportedModelError
from vqonnx.graph.facts import float_attribute, int_attribute
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import constant, constant_tensor

Multiply: TypeAlias = Callable[[Replacement, ir.Value, ir.Value | None], ir.Value]
"""One quantized form of ``x W + bias``: from x [.., K] and a bias [N], or None, to the value [.., N]."""


def replace_product(node: ir.Node, out_features: int, names: NameAllocator, multiply: Multiply) -> None:
    """Let ``multiply`` compute what ``node`` computes with its weight, in place.

    Args:
        node: A MatMul whose second input is the weight, a Gemm, or a Conv with a 1x1 kernel and neither groups,
            strides nor padding. What a Gemm multiplies by alpha is a part of W.
        out_features: N.
        names: Where new names come from.
        multiply: The form.

    Raises:
        UnsupportedModelError: The node is none of these.
    """
    replacement = Replacement(node, names)
    write = _PRODUCTS.get(node.op_type)
    if write is None:
        raise UnsupportedModelError(
            f"node {node.name!r} ({node.op_type}) has no form with a packed weight. Exclude it (nodes_to_exclude).",
            node=node.name,
        )
    replacement.finish(write(replacement, out_features, multiply))


def add_bias(replacement: Replacement, product: ir.Value, bias: ir.Value | None) -> ir.Value:
    """``product`` plus a bias, for forms that take none; ONNX Runtime fuses the Add where its kernel has one."""
    return product if bias is None else replacement.add("Add", [product, bias])


def _matmul(replacement: Replacement, out_features: int, multiply: Multiply) -> ir.Value:
    del out_features
    return multiply(replacement, _activation(replacement), None)


def _gemm(replacement: Replacement, out_features: int, multiply: Multiply) -> ir.Value:
    """Gemm: alpha * A' * B' + beta * C, with A' perhaps the transpose of A."""
    x, node = _activation(replacement), replacement.node
    if int_attribute(node, "transA", 0):
        x = replacement.add("Transpose", [x], {"perm": [1, 0]})
    addend, beta = _optional(node, 2), float_attribute(node, "beta", 1.0)
    if addend is None or beta == 0:
        return multiply(replacement, x, None)
    row = _row(addend, out_features)
    if row is None:
        if beta != 1:
            addend = replacement.add("Mul", [addend, replacement.constant(_like(addend, beta), "beta")])
        return add_bias(replacement, multiply(replacement, x, None), addend)
    if beta == 1 and constant_shape(addend) == (out_features,):
        return multiply(replacement, x, addend)  # perhaps the bias of other nodes too
    scaled = np.broadcast_to(row * np.float32(beta), out_features)
    bias = replacement.constant(np.ascontiguousarray(scaled, dtype=row.dtype), "bias")
    return multiply(replacement, x, bias)


def _conv(replacement: Replacement, out_features: int, multiply: Multiply) -> ir.Value:
    """Conv with a 1x1 kernel: the channels go last, are multiplied, and go back to the second axis."""
    del out_features
    node = replacement.node
    rank = _conv_rank(node)
    channels_last = replacement.add("Transpose", [_activation(replacement)], {"perm": [0, *range(2, rank), 1]})
    product = multiply(replacement, channels_last, _optional(node, 2))
    return replacement.add("Transpose", [product], {"perm": [0, rank - 1, *range(1, rank - 1)]})


_PRODUCTS: Mapping[str, Callable[[Replacement, int, Multiply], ir.Value]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
}


def _conv_rank(node: ir.Node) -> int:
    kernel = node.attributes.get("kernel_shape")
    if kernel is not None:
        return 2 + len(kernel.as_ints())
    ranks = [len(value.shape) for value in node.inputs[:2] if value is not None and value.shape is not None]
    if not ranks:
        raise UnsupportedModelError(
            f"node {node.name!r} (Conv) has a weight and an input of unknown rank. Infer shapes first.", node=node.name
        )
    return ranks[0]


def _row(addend: ir.Value, out_features: int) -> npt.NDArray[np.floating] | None:
    """A Gemm's constant C as one row of 1 or N numbers; None if it has several rows or is computed."""
    shape = constant_shape(addend)
    if shape is None or any(size != 1 for size in shape[:-1]) or shape[-1:] not in ((), (1,), (out_features,)):
        return None
    row = constant(addend)
    return None if row is None else row.reshape(-1)


def constant_shape(value: ir.Value) -> tuple[int, ...] | None:
    """The shape of a constant; None if a run could change the value."""
    tensor = constant_tensor(value)
    return None if tensor is None else tuple(tensor.shape.numpy())


def _like(value: ir.Value, number: float) -> npt.NDArray[np.floating]:
    """A scalar of the value's type."""
    dtype = ir.DataType.FLOAT if value.dtype is None else value.dtype
    return np.asarray(number, dtype.numpy())


def _activation(replacement: Replacement) -> ir.Value:
    value = replacement.node.inputs[0]
    if value is None:  # pragma: no cover - not valid ONNX
        raise UnsupportedModelError(f"node {replacement.node.name!r} has no input", node=replacement.node.name)
    return value


def _optional(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None
