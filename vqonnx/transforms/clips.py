"""Clips from zero on, as Relus."""

import math
from collections.abc import Collection

import onnx_ir as ir

from vqonnx.graph.edit import make_node, replace_node
from vqonnx.graph.facts import clip_bounds
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import FLOAT_TYPES, nested_graphs


def clips_to_relus(model: ir.Model, *, highest: float | None = 6.0, only: Collection[str] | None = None) -> int:
    """Turn each Clip whose bounds are 0 and ``highest`` into Relu; return how many. Bodies are included.

    Exact where no value exceeds the bound, and then only. It lets channels be scaled through the activation, and
    saves a bound that int8 codes hold anyway; but a network that was trained with Relu6 may rely on it: of the float
    outputs, MobileNetV2 keeps 20.6 dB and EfficientNet-Lite0 0.3 dB of signal to noise. So measure what it does.

    Args:
        model: Any model; values of unknown type are left.
        highest: The upper bound that is given up. None: whichever there is; infinity: none. A Clip from 0 without an
            upper bound, or with one that no finite number of its type exceeds, always becomes Relu: that is exact.
        only: Names of the Clips that may change; all by default.
    """
    names = NameAllocator.of(model)
    found = [node for graph in nested_graphs(model.graph) for node in graph if _becomes_relu(node, highest)]
    chosen = [node for node in found if only is None or node.name in only]
    for node in chosen:
        replace_node(node, [make_node(names, "Relu", [node.inputs[0]])], names)
    return len(chosen)


def _becomes_relu(node: ir.Node, highest: float | None) -> bool:
    x = node.inputs[0] if node.inputs else None
    if node.op_type != "Clip" or node.domain or x is None or x.dtype is None or x.dtype not in FLOAT_TYPES:
        return False
    bounds = clip_bounds(node)
    if bounds is None or bounds[0] != 0:
        return False
    upper = bounds[1]
    if upper >= x.dtype.max:
        return True
    return upper > 0 if highest is None else math.isclose(upper, highest)
