"""InstanceNormalization written out, as one node."""

import numpy as np
import onnx_ir as ir

from vqonnx.graph.edit import add_initializer
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import nested_graphs, only_reader
from vqonnx.transforms.affine import Layout, per_channel
from vqonnx.transforms.weights import F64, float_constant, stored
from vqonnx.transforms.written_normalization import ROOTS, WrittenNormalization, written_normalization

_CHANNEL_AXIS = 1
_IMAGE_RANK = 4


def fuse_instance_norms(model: ir.Model) -> int:
    """Turn each InstanceNormalization that is written out into the operator of that name; return how many.

    All axes behind the channels must be normalized; scale and shift are constant, one a channel or one for all. Run
    it before ``fuse_layer_norm.fuse_layer_norms``: without scale and shift the two are the same, and are taken for
    this one where the rank is 4 or more and no scale of another shape follows. Bodies are included. Nothing is done
    in float64 (the operator computes in float32), or where a value inside is read by another node.
    """
    names = NameAllocator.of(model)
    roots = [node for graph in nested_graphs(model.graph) for node in graph if node.op_type in ROOTS]
    return sum(_fuse(root, names) for root in reversed(roots))


def _fuse(root: ir.Node, names: NameAllocator) -> bool:
    found = written_normalization(root) if isinstance(root.graph, ir.Graph) else None
    if found is None or not isinstance(root.graph, ir.Graph):
        return False
    channels = found.shape[_CHANNEL_AXIS] if len(found.shape) > _CHANNEL_AXIS else None
    if not isinstance(channels, int) or found.axes != tuple(range(_CHANNEL_AXIS + 1, len(found.shape))):
        return False
    layout = Layout(len(found.shape), _CHANNEL_AXIS, channels)
    parameters = _parameters(found, layout) if _is_of_channels(found, layout) else None
    if parameters is None:
        return False
    values = [
        add_initializer(root.graph, names.unique(f"{root.name}_{role}"), array)
        for role, array in zip(("scale", "bias"), parameters, strict=True)
    ]
    found.match.replace("InstanceNormalization", [found.x, *values], {"epsilon": found.epsilon}, names)
    return True


def _is_of_channels(found: WrittenNormalization, layout: Layout) -> bool:
    if any(numbers is not None and numbers.size > 1 for numbers in (found.scale, found.shift)):
        return True
    reader = only_reader(found.match.root.outputs[0])
    next_constant = None
    if reader is not None and reader[0].op_type in ("Add", "Mul"):
        next_constant = float_constant(reader[0].inputs[1 - reader[1]])
    scaled_otherwise = next_constant is not None and per_channel(next_constant, layout) is None
    return layout.rank >= _IMAGE_RANK and not scaled_otherwise


def _parameters(found: WrittenNormalization, layout: Layout) -> list[np.ndarray] | None:
    """Scale and shift, each [channels] in x's type; None if they vary along other axes."""
    dtype = found.x.dtype
    if dtype is None:
        return None
    arrays = [_stored(found.scale, 1.0, layout, dtype), _stored(found.shift, 0.0, layout, dtype)]
    kept = [array for array in arrays if array is not None]
    return kept if len(kept) == len(arrays) else None


def _stored(numbers: F64 | None, default: float, layout: Layout, dtype: ir.DataType) -> np.ndarray | None:
    vector = np.full(layout.channels, default) if numbers is None else per_channel(numbers, layout)
    return None if vector is None else stored(vector, dtype)
