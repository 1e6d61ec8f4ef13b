"""LayerNormalization written out, as one node."""

import math

import numpy as np
import onnx_ir as ir

from vqonnx.graph.edit import add_initializer
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import nested_graphs
from vqonnx.transforms.weights import F64, stored
from vqonnx.transforms.written_normalization import ROOTS, WrittenNormalization, written_normalization

LAYER_NORM_OPSET = 17
"""The opset that brought the operator."""


def fuse_layer_norms(model: ir.Model) -> int:
    """Turn each LayerNormalization that is written out into the operator of that name; return how many.

    The last axes must be normalized, and their sizes known; scale and shift are constant and vary along these axes
    alone. Bodies are included. Nothing is done below opset 17, in float64 (the operator computes in float32), or
    where a value inside is read by another node.
    """
    if model.opset_imports.get("", 0) < LAYER_NORM_OPSET:
        return 0
    names = NameAllocator.of(model)
    roots = [node for graph in nested_graphs(model.graph) for node in graph if node.op_type in ROOTS]
    return sum(_fuse(root, names) for root in reversed(roots))


def _fuse(root: ir.Node, names: NameAllocator) -> bool:
    found = written_normalization(root) if isinstance(root.graph, ir.Graph) else None
    if found is None or not isinstance(root.graph, ir.Graph):
        return False
    rank = len(found.shape)
    sizes = [size for size in found.shape[found.axes[0] :] if isinstance(size, int)]
    if found.axes != tuple(range(rank - len(sizes), rank)):
        return False
    parameters = _parameters(found, tuple(sizes))
    if parameters is None:
        return False
    values = [
        add_initializer(root.graph, names.unique(f"{root.name}_{role}"), array)
        for role, array in zip(("scale", "bias"), parameters, strict=False)
    ]
    attributes = {"axis": -len(sizes), "epsilon": found.epsilon}
    found.match.replace("LayerNormalization", [found.x, *values], attributes, names)
    return True


def _parameters(found: WrittenNormalization, sizes: tuple[int, ...]) -> list[np.ndarray] | None:
    """Scale and, where there is one, shift, of shape ``sizes`` and x's type; None if they vary along other axes."""
    scale = np.ones(sizes) if found.scale is None else _over(found.scale, sizes)
    shift = None if found.shift is None else _over(found.shift, sizes)
    if scale is None or (shift is None and found.shift is not None) or found.x.dtype is None:
        return None
    arrays = [stored(numbers, found.x.dtype) for numbers in (scale, shift) if numbers is not None]
    kept = [array for array in arrays if array is not None]
    return kept if len(kept) == len(arrays) else None


def _over(numbers: F64, sizes: tuple[int, ...]) -> F64 | None:
    """``numbers`` broadcast to the last axes, of ``sizes``; None if they vary along others or widen these."""
    others = numbers.shape[: max(0, numbers.ndim - len(sizes))]
    last = numbers.shape[len(others) :]
    aligned = (1,) * (len(sizes) - len(last)) + last
    if math.prod(others) != 1 or any(size not in (1, full) for size, full in zip(aligned, sizes, strict=True)):
        return None
    return np.array(np.broadcast_to(numbers.reshape(aligned), sizes))
