"""Gemm in its plain form: x @ weight + bias, so that later stages need not look at alpha, beta and broadcasts."""

import numpy as np
import onnx_ir as ir

from vqonnx.graph.facts import float_attribute, int_attribute
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import constant_tensor, nested_graphs
from vqonnx.transforms.weights import F64, float_constant, set_constant, stored


def normalize_gemms(model: ir.Model) -> int:
    """Fold alpha into constant weights, beta into constant biases, and make biases [N]; return how many changed.

    A bias of shape (), (1,), (N,), (1, 1) or (1, N) broadcasts along the rows and becomes (N,); one of (M, 1)
    or (M, N) differs by row and stays. What is not constant, or would overflow, stays too. ``transA`` and
    ``transB`` are kept, with them the weight's layout. Source: ONNX, Gemm, opset 7 to 13.
    """
    names = NameAllocator.of(model)
    gemms = [node for graph in nested_graphs(model.graph) for node in graph if _is_gemm(node)]
    return sum(_normalize(node, names) for node in gemms)


def _is_gemm(node: ir.Node) -> bool:
    return node.op_type == "Gemm" and not node.domain


def _normalize(node: ir.Node, names: NameAllocator) -> bool:
    # Each changes the node, so both must run.
    changes = (_fold_alpha(node, names), _fold_beta(node, names))
    return any(changes)


def _fold_alpha(node: ir.Node, names: NameAllocator) -> bool:
    alpha = float_attribute(node, "alpha", 1.0)
    if alpha == 1.0:
        return False
    weight, tensor = float_constant(node.inputs[1]), constant_tensor(node.inputs[1])
    if weight is None or tensor is None:
        return False
    scaled = stored(alpha * weight, tensor.dtype)
    if scaled is None:
        return False
    set_constant(node, 1, scaled, names, f"{node.name}_weight")
    del node.attributes["alpha"]
    return True


def _fold_beta(node: ir.Node, names: NameAllocator) -> bool:
    """Beta and the bias's shape; without a bias beta means nothing and goes."""
    beta = float_attribute(node, "beta", 1.0)
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return node.attributes.pop("beta", None) is not None and beta != 1.0
    bias, tensor = float_constant(value), constant_tensor(value)
    if bias is None or tensor is None:
        return False
    wanted = _row_vector(bias, _columns(node))
    if beta == 1.0 and (wanted is None or wanted.shape == bias.shape):
        return False
    numbers = stored(beta * (bias if wanted is None else wanted), tensor.dtype)
    if numbers is None:
        return False
    set_constant(node, 2, numbers, names, f"{node.name}_bias")
    node.attributes.pop("beta", None)
    return True


def _columns(node: ir.Node) -> int | None:
    weight = constant_tensor(node.inputs[1])
    return None if weight is None else int(weight.shape.numpy()[0 if int_attribute(node, "transB", 0) else 1])


def _row_vector(bias: F64, columns: int | None) -> F64 | None:
    """``bias`` as [N] where every row adds the same; None where rows differ or N is not known."""
    alike = bias.ndim < 2 or (bias.ndim == 2 and bias.shape[0] == 1)
    if columns is None or not alike or bias.size not in (1, columns):
        return None
    return np.array(np.broadcast_to(bias.reshape(-1), (columns,)))
