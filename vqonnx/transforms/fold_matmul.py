"""BatchNormalization after a MatMul, with or without the Add of a bias, becomes that MatMul and that Add."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vqonnx.graph.edit import add_initializer, make_node, replace_node
from vqonnx.graph.facts import linear_add
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import constant_tensor
from vqonnx.transforms.affine import Affine, Layout, batch_norm
from vqonnx.transforms.fold_affine import bypass, followers
from vqonnx.transforms.weights import F64, float_constant, set_constant, stored


def fold_batch_norms_after_matmul(model: ir.Model) -> int:
    """Fold each inference BatchNormalization into the MatMul and Add before it; return how many.

    The product must be known to have rank 2, so that axis 1 holds the weight's columns. Where no Add is
    there to take the shift, one takes the place of the normalization. Other conditions are those of
    ``fold_affine.fold_batch_norms``.
    """
    names = NameAllocator.of(model)
    return sum(_fold(node, index, producer, names) for node, index, producer in followers(model))


@dataclass(frozen=True, slots=True, eq=False)
class _Projection:
    """x @ weight + bias: its nodes and its numbers in float64; no ``add``, and zeros, where it has no bias."""

    matmul: ir.Node
    add: tuple[ir.Node, int] | None
    weight: F64
    bias: F64
    dtype: ir.DataType


def _fold(node: ir.Node, index: int, producer: ir.Node, names: NameAllocator) -> bool:
    # Looked at first: to form a projection is to read its weight.
    projection = _projection(producer) if node.op_type == "BatchNormalization" else None
    if projection is None:
        return False
    affine = batch_norm(node, index, Layout(rank=2, axis=1, channels=projection.weight.shape[1]))
    if affine is None:
        return False
    weight, bias = _combined(projection, affine)
    if weight is None or bias is None:
        return False
    set_constant(projection.matmul, 1, weight, names, f"{projection.matmul.name}_weight")
    if projection.add is not None:
        set_constant(*projection.add, bias, names, f"{node.name}_bias")
        bypass(node, index, names)
    else:
        _replace_by_add(node, bias, names)
    return True


def _combined(projection: _Projection, affine: Affine) -> tuple[np.ndarray | None, np.ndarray | None]:
    bias = affine.scale * projection.bias + affine.shift
    return stored(projection.weight * affine.scale, projection.dtype), stored(bias, projection.dtype)


def _replace_by_add(node: ir.Node, bias: np.ndarray, names: NameAllocator) -> None:
    graph = node.graph
    if not isinstance(graph, ir.Graph):  # pragma: no cover - followers come from graphs
        raise TypeError(f"node {node.name!r} is in no graph")
    constant = add_initializer(graph, names.unique(f"{node.name}_bias"), bias)
    add = make_node(names, "Add", [node.inputs[0], constant])
    replace_node(node, [add], names)


def _projection(producer: ir.Node) -> _Projection | None:
    """The MatMul of constant [K, N] that ``producer`` is, or whose bias it adds; None unless the rank is 2."""
    matmul, add = _matmul_and_add(producer)
    weight = None if matmul is None else float_constant(matmul.inputs[1])
    if matmul is None or weight is None or weight.ndim != 2 or not _is_matrix(matmul.inputs[0]):
        return None
    bias = np.zeros(weight.shape[1]) if add is None else float_constant(add[0].inputs[add[1]])
    tensor = constant_tensor(matmul.inputs[1])
    if bias is None or bias.ndim > 2 or tensor is None:
        return None
    return _Projection(matmul, add, weight, bias.reshape(-1), tensor.dtype)


def _matmul_and_add(producer: ir.Node) -> tuple[ir.Node | None, tuple[ir.Node, int] | None]:
    if producer.op_type == "MatMul":
        return (None, None) if producer.domain else (producer, None)
    for value in producer.inputs:
        before = None if value is None else value.producer()
        add = linear_add(before) if before is not None and not before.domain else None
        if add is not None and add[0] is producer:
            return before, add
    return None, None


def _is_matrix(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and len(value.shape) == 2
