"""BatchNormalizations that no weight could take in, as depthwise Convs of one element: what integer devices run."""

import math

import onnx_ir as ir

from vqonnx.graph.edit import add_initializer, make_node, replace_node
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import constant_tensor, nested_graphs
from vqonnx.transforms.affine import Layout, batch_norm
from vqonnx.transforms.weights import stored

_TYPES = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})
"""What ONNX Runtime convolves on a CPU; BatchNormalization knows double too."""
_RANKS = range(3, 6)


def batch_norms_to_convs(model: ir.Model) -> int:
    """Turn each inference BatchNormalization into a Conv with one weight a channel; return how many. Bodies too.

    Run it after ``fold_affine.fold_batch_norms``. The value must be float16 or float32 of known rank 3 to 5, the
    parameters constant and, folded in float64, within the range of the value's type. The Conv takes over the name.
    """
    names = NameAllocator.of(model)
    nodes = [node for graph in nested_graphs(model.graph) for node in graph if node.op_type == "BatchNormalization"]
    return sum(_to_conv(node, names) for node in nodes)


def _to_conv(node: ir.Node, names: NameAllocator) -> bool:
    x, gamma, graph = node.inputs[0], constant_tensor(node.inputs[1]), node.graph
    if x is None or x.shape is None or x.dtype not in _TYPES or len(x.shape) not in _RANKS or gamma is None:
        return False
    channels = math.prod(gamma.shape.numpy())
    affine = batch_norm(node, 0, Layout(rank=len(x.shape), axis=1, channels=channels))
    if affine is None or x.dtype is None or not isinstance(graph, ir.Graph):
        return False
    spatial = [1] * (len(x.shape) - 2)
    weight, bias = stored(affine.scale.reshape(channels, 1, *spatial), x.dtype), stored(affine.shift, x.dtype)
    if weight is None or bias is None:
        return False
    constants = [
        add_initializer(graph, names.unique(f"{node.name}_{role}"), numbers)
        for role, numbers in (("weight", weight), ("bias", bias))
    ]
    conv = make_node(names, "Conv", [x, *constants], {"group": channels, "kernel_shape": spatial})
    replace_node(node, [conv], names)
    return True
