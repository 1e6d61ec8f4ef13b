"""Types and shapes of all values: ONNX's inference, ONNX Runtime's symbolic one, and what it says on loading."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from vqonnx.errors import DependencyError, ModelError, VerificationError
from vqonnx.graph.inference import infer_missing
from vqonnx.graph.walk import graph_values, nested_graphs
from vqonnx.runtime.session import add_outputs, open_session
from vqonnx.transforms.symbolic import infer_symbolic


@dataclass(frozen=True, slots=True)
class ShapeNotes:
    """What inference left open.

    Attributes:
        failures: One sentence for each step that failed.
        untyped: Names of values without an element type.
        unshaped: Names of tensors without a known rank.
    """

    failures: tuple[str, ...]
    untyped: tuple[str, ...]
    unshaped: tuple[str, ...]


def infer_shapes(model: ir.Model) -> ShapeNotes:
    """Fill in missing types and shapes, in place; what is stated stays. A step that fails is told in the result.

    While there are gaps: ONNX's inference, then ONNX Runtime's symbolic inference, then what ONNX Runtime
    says of the open values when it loads the model. It knows contrib and registered custom operators, but
    cannot be asked for values inside bodies.
    """
    failures = []
    for step, name in _STEPS:
        if not _has_gaps(model):
            break
        try:
            step(model)
        except (DependencyError, ModelError, VerificationError) as error:
            failures.append(f"{name}: {error}")
    untyped = tuple(value.name or "" for value in _values(model) if value.type is None)
    unshaped = tuple(value.name or "" for value in _values(model) if _lacks_shape(value))
    return ShapeNotes(tuple(failures), untyped, unshaped)


def _values(model: ir.Model) -> Iterator[ir.Value]:
    """All values but those in functions, whose types depend on the call."""
    return (value for graph in nested_graphs(model.graph) for value in graph_values(graph))


def _has_gaps(model: ir.Model) -> bool:
    return any(value.type is None or _lacks_shape(value) for value in _values(model))


def _ask_runtime(model: ir.Model) -> None:
    """Make the main graph's open values outputs of a session that never runs, and read their types off it.

    Raises:
        DependencyError: onnxruntime is not installed.
        ModelError: The model does not fit into one message.
        VerificationError: ONNX Runtime does not load it.
    """
    outputs = [output for node in model.graph for output in node.outputs if output.name]
    open_values = {output.name: output for output in outputs if output.type is None or _lacks_shape(output)}
    if not open_values:
        return
    session = open_session(add_outputs(model, [str(name) for name in open_values]), optimize=False)
    for found in session.get_outputs():
        value, matched = open_values.get(found.name), re.fullmatch(r"tensor\((\w+)\)", found.type)
        if value is None or matched is None or matched[1] not in _RUNTIME_TYPES:
            continue
        value.type = value.type or ir.TensorType(_RUNTIME_TYPES[matched[1]])
        # An empty list is ORT's word for a scalar and for an unknown rank alike.
        if value.shape is None and found.shape:
            value.shape = ir.Shape(found.shape)


def _lacks_shape(value: ir.Value) -> bool:
    return isinstance(value.type, ir.TensorType) and value.shape is None


_STEPS = (
    (infer_missing, "ONNX's shape inference"),
    (infer_symbolic, "symbolic shape inference"),
    (_ask_runtime, "types from ONNX Runtime"),
)
_RUNTIME_TYPES = {kind.name.lower(): kind for kind in ir.DataType}
"""ORT writes element types as ONNX does, in lower case."""
