"""Prepare for weight-only quantization: the model as it is, in the form in which its weights can be found."""

import time
from collections.abc import Collection

import onnx_ir as ir

from vqonnx.errors import ModelError
from vqonnx.graph.inference import infer_missing
from vqonnx.graph.names import ensure_unique_names
from vqonnx.graph.walk import nodes
from vqonnx.planning.weights.layers import LAYER_OPERATORS
from vqonnx.stages.prepare import Prepared
from vqonnx.transforms.carried_constants import free_carried_constants
from vqonnx.transforms.constants import drop_constant_inputs, lift_constants, lift_initializers
from vqonnx.transforms.functions import inline_functions


def prepare_weights(model: ir.Model, operators: Collection[str] = LAYER_OPERATORS) -> Prepared:
    """Bring ``model`` into the form that finding its layers needs, in place. Nothing is computed and no weight is read.

    Functions that hold products or lookups are written out, constants become initializers of the main graph (those that
    Loops carried too), names become unique, and ranks become known as far as ONNX knows them; what keeps it from that
    is noted. Constants are not folded, since that would read them: ``graph.weight_source`` looks through what stands
    before a weight.

    Args:
        model: A private model (``graph.io.load``).
        operators: Functions that hold one of these are written out.

    Raises:
        ModelError: Functions call each other in a circle.
    """
    started = time.perf_counter()
    ensure_unique_names(model)
    before = {node.name for node in nodes(model) if node.name}
    inline_functions(model, _holding(model, operators))
    drop_constant_inputs(model)
    lift_constants(model)
    lift_initializers(model)
    free_carried_constants(model)
    ensure_unique_names(model)  # bodies of functions are named by the graph that calls them alone
    return Prepared(
        model=model,
        notes=tuple(_infer(model)),
        folded=frozenset(before - {node.name for node in nodes(model)}),
        seconds=time.perf_counter() - started,
    )


def _holding(model: ir.Model, operators: Collection[str]) -> set[ir.OperatorIdentifier]:
    """The functions that hold a node of these operators, themselves or in a function they call."""
    calls = {
        identifier: {node.op_identifier() for node in function.graph.all_nodes()}
        for identifier, function in model.functions.items()
    }
    holding = {name for name, called in calls.items() if any(op_type in operators for _, op_type, _ in called)}
    while more := {name for name, called in calls.items() if called & holding} - holding:
        holding |= more
    return holding


def _infer(model: ir.Model) -> list[str]:
    """Fill in ranks; what keeps ONNX's inference from it is no reason to give up."""
    try:
        infer_missing(model)
    except ModelError as error:
        return [f"ONNX's shape inference: {error}"]
    return []
