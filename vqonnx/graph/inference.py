"""Types and shapes of values that the file does not state, by ONNX's own inference."""

import onnx.shape_inference
import onnx_ir as ir

from vqonnx.errors import ModelError
from vqonnx.graph import external, walk
from vqonnx.graph.proto import initialized_values, message_of, tensors_replaced

_STATED_BELOW = 1 << 10
"""Bytes; inference computes with small constants (shapes, axes) and only asks large ones for their shape."""


def infer_missing(model: ir.Model, *, strict: bool = False) -> None:
    """Fill in types and shapes of values that have none, subgraphs included, in place; what is stated stays.

    Large tensors are not serialised. What inference does not know (custom operators) stays empty.

    Args:
        model: Any model.
        strict: Raise where a node cannot take its inputs' sizes; else what it makes stays empty.

    Raises:
        ModelError: The stated types contradict each other.
    """
    stand_ins = {
        value: external.reference(tensor, "left out", external.Placed(0, tensor.nbytes))
        for value, tensor in initialized_values(model)
        if tensor.nbytes >= _STATED_BELOW
    }
    with tensors_replaced(stand_ins):
        proto = message_of(model)
    try:
        inferred = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto, strict_mode=strict))
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(
            f"the types of graph {model.graph.name!r} contradict each other: {error}. Export the model again."
        ) from error
    for graph, known in zip(walk.graphs(model), walk.graphs(inferred), strict=True):
        by_name = {value.name: value for value in walk.graph_values(known)}
        for value in walk.graph_values(graph):
            found = by_name.get(value.name)
            if found is not None:
                value.type = value.type or found.type
                value.shape = found.shape if value.shape is None else value.shape
