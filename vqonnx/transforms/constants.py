"""Constants as initializers: what no input can change is computed once, before the model is looked at."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import LiftSubgraphInitializersToMainGraphPass

from vqonnx.graph.dequantization import dequantized
from vqonnx.graph.edit import add_initializer, remove_node, replace_uses
from vqonnx.graph.evaluation import RULES, Outcome, Rule, constant_inputs
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.proto import lazy
from vqonnx.graph.walk import constant_tensor, nested_graphs

GROWTH = 8
"""A folded constant takes at most this many times the bytes of what it is made from (4 bits to float32) …"""
FREE_BYTES = 1 << 20
"""… but this much in any case. A ConstantOfShape or an outer product may stand for gigabytes."""
LEAST_LIFTED = 1 << 10
"""Bytes; smaller constants (shapes, axes, factors) may stay nodes."""
LAZY_ABOVE = 16 << 20
"""Bytes; a larger constant is computed at each use instead of kept, since its source may be a mapped file."""


def drop_constant_inputs(model: ir.Model) -> int:
    """Take inputs that have an initializer off the input list, so that they are constants; return how many.

    Such an input is a default that a caller may override (ONNX IR, "Graphs", since IR version 4); before that
    version every weight had to be listed so. A weight that may be fed cannot be quantized ahead of time.
    Inputs of bodies are left: their number belongs to the operator.
    """
    kept = [value for value in model.graph.inputs if not value.is_initializer()]
    dropped = len(model.graph.inputs) - len(kept)
    if dropped:
        model.graph.inputs.clear()
        model.graph.inputs.extend(kept)
    return dropped


def lift_constants(model: ir.Model, least: int = LEAST_LIFTED) -> int:
    """Make initializers of Constant nodes with ``least`` bytes or more; return how many. Nothing is read or copied.

    Bodies are included; functions, which cannot hold initializers, are not. Graph outputs stay.
    """
    names = NameAllocator.of(model)
    count = 0
    for graph in nested_graphs(model.graph):
        for node in [node for node in graph if node.op_type == "Constant" and not node.outputs[0].is_graph_output()]:
            tensor = constant_tensor(node.outputs[0])
            if tensor is not None and tensor.nbytes >= least:
                _replace(node, lazy(tensor), names)
                count += 1
    return count


def lift_initializers(model: ir.Model) -> int:
    """Move initializers of If, Loop and Scan bodies to the main graph; return how many.

    Only there can a session take them from where they lie. Initializers that are a body's output stay.
    """
    before = len(model.graph.initializers)
    LiftSubgraphInitializersToMainGraphPass()(model)
    return len(model.graph.initializers) - before


def fold_constants(model: ir.Model, *, requantize: bool = False) -> int:
    """Replace nodes whose inputs are all constant by initializers; return how many.

    Covers Constant nodes and the operators in ``graph.evaluation.RULES``, in bodies too. A node stays when one of
    its outputs is a graph output, when the result would be out of proportion, or in a function, which cannot
    hold initializers. Producers that others read stay. A new shape of a mapped tensor stays mapped.

    Args:
        model: A model whose names are unique, edited in place.
        requantize: Also fold DequantizeLinear, so that a quantized weight becomes float again.
    """
    names = NameAllocator.of(model)
    count = 0
    for graph in nested_graphs(model.graph):
        for node in list(graph):
            outcome = _outcome(node, requantize)
            if outcome is not None:
                _replace(node, _tensor(outcome, str(node.outputs[0].name)), names)
                count += 1
    return count


def _outcome(node: ir.Node, requantize: bool) -> Outcome | None:
    if node.domain not in ("", "ai.onnx") or len(node.outputs) != 1 or node.outputs[0].is_graph_output():
        return None
    rule: Rule | None = RULES.get(node.op_type)
    if requantize and node.op_type == "DequantizeLinear":
        rule = dequantized
    outcome = rule(node, constant_inputs(node)) if rule is not None else None
    return outcome if outcome is not None and _in_proportion(node, outcome) else None


def _in_proportion(node: ir.Node, outcome: Outcome) -> bool:
    if outcome.source is not None:
        return True
    tensors = [constant_tensor(value) for value in node.inputs]
    made_from = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    return outcome.nbytes <= max(FREE_BYTES, GROWTH * made_from)


def _replace(node: ir.Node, tensor: ir.TensorProtocol, names: NameAllocator) -> None:
    """Put an initializer of the same name in the place of ``node``'s output."""
    old, graph = node.outputs[0], node.graph
    if not isinstance(graph, ir.Graph) or old.name is None:  # pragma: no cover - nodes come from graphs, named
        raise TypeError(f"node {node.name!r} is in no graph, or its output has no name")
    new = add_initializer(graph, old.name, tensor)
    new.metadata_props.update(old.metadata_props)
    replace_uses(old, new, names)
    remove_node(node)


def _tensor(outcome: Outcome, name: str) -> ir.TensorProtocol:
    shape, source = ir.Shape(outcome.shape), outcome.source
    if isinstance(source, ir.ExternalTensor):
        place = (source.location, source.offset, source.length, source.dtype)
        return ir.ExternalTensor(*place, shape=shape, name=name, base_dir=source.base_dir)

    def computed() -> ir.TensorProtocol:
        return ir.Tensor(np.asarray(outcome.compute(), order="C"), dtype=outcome.dtype, shape=shape, name=name)

    if outcome.nbytes > LAZY_ABOVE and not isinstance(source, ir.Tensor):
        return ir.LazyTensor(computed, dtype=outcome.dtype, shape=shape, name=name)
    return computed()
