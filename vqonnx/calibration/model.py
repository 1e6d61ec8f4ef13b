"""What calibration asks of a model: its inputs, which tensors can be observed, and a copy that puts them out.

A value inside a body of If, Loop or Scan is observed as one vector a sample, of all that its body's runs gave.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from vqonnx.calibration.feeds import ModelInput
from vqonnx.errors import OptionError, UnsupportedModelError, nearest
from vqonnx.graph.edit import make_node, remove_dead
from vqonnx.graph.io import load
from vqonnx.graph.lift import lift
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import control_flow_graphs, values_by_name

_CHUNK = 1 << 24
_MEASURED = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)  # what sessions give back as numpy arrays


def model_inputs(model: ir.Model) -> list[ModelInput]:
    """The graph's inputs, as samples have to fit them.

    Raises:
        UnsupportedModelError: An input is a sequence.
    """
    for value in model.graph.inputs:
        if isinstance(value.type, ir.SequenceType):
            raise UnsupportedModelError(
                f"graph input {value.name!r} is a sequence, and samples are made of arrays. Cut the model where only "
                "tensors go in (onnx.utils.extract_model)."
            )
    return [
        ModelInput(
            value.name or "",
            np.dtype(np.float32) if value.dtype is None else np.dtype(value.dtype.numpy()),
            None if value.shape is None else tuple(n if isinstance(n, int) else None for n in value.shape),
            required=value.name not in model.graph.initializers,
        )
        for value in model.graph.inputs
    ]


def unobservable(model: ir.Model, names: Iterable[str], *, bodies: bool = False) -> dict[str, str]:
    """Why some of the values ``names`` are no float tensors that a run of the model makes or is given, by name.

    ``bodies`` says whether a value in a body will do.
    """
    known, everywhere = observable_values(model, bodies=bodies), values_by_name(model)
    reasons: dict[str, str] = {}
    for name in names:
        value = known.get(name) or everywhere.get(name)
        if value is None:
            reasons[name] = f"is not in the model{nearest(name, known)}"
        elif name not in known:
            reasons[name] = "is a constant" if value.is_initializer() else "is inside a control-flow body or a function"
        elif value.dtype is not None and value.dtype not in _MEASURED:
            kinds = ", ".join(kind.name for kind in _MEASURED)
            reasons[name] = f"has elements of type {value.dtype.name}; only {kinds} are measured"
    return reasons


def refuse_unobservable(model: ir.Model, names: Iterable[str]) -> None:
    """Check that each name is a float tensor that a run of the model makes or is given.

    Raises:
        OptionError: A name is a constant, is inside a function, is not in the model, or has a type that is not
            measured.
    """
    for name, fact in unobservable(model, names, bodies=True).items():
        raise OptionError(f"cannot observe {name!r}: it {fact}. Leave it out of what is observed", option="wanted")


def exposing(model: ir.Model, names: Sequence[str], *, sizes: bool = False, stacked: bool = False) -> ir.Model:
    """A copy of ``model``, weights shared, whose outputs are the tensors ``names``, or just their element counts.

    Nodes that none of them needs are left out. ``stacked``: see ``graph.lift.lift``.
    """
    copy = load(model)
    known = observable_values(copy, bodies=True)
    inner = [value for name in names if (value := known[name]).graph is not copy.graph]
    if inner:
        lift(copy, inner, stacked=stacked)
        known = observable_values(copy)
    values = [known[name] for name in names]
    if sizes:
        allocator = NameAllocator.of(copy)
        nodes = [make_node(allocator, "Size", [value]) for value in values]
        copy.graph.extend(nodes)
        values = [node.outputs[0] for node in nodes]
    copy.graph.outputs[:] = values
    remove_dead(copy)
    return copy


def element_count(value: ir.Value, axes: dict[str, int]) -> int | None:
    """Elements of ``value`` when the free axes have these lengths; None if the model does not say."""
    count = 1
    for size in value.shape if value.shape is not None else [None]:
        known = size if isinstance(size, int) else axes.get(str(getattr(size, "value", None)))
        if known is None:
            return None
        count *= known
    return count


def model_digest(model: ir.Model) -> str:
    """BLAKE2b digest, in hex, of nodes, inputs, functions and the content of every weight.

    Weights are read in chunks, mapped ones straight from their file.
    """
    digest = hashlib.blake2b(digest_size=20)
    for value in model.graph.inputs:
        digest.update(repr((value.name, value.dtype, str(value.shape))).encode())
    digest.update(repr(sorted(model.opset_imports.items())).encode())
    for part in (*model.graph, *model.functions.values()):
        digest.update(ir.to_proto(part).SerializeToString(deterministic=True))
    for name, weight in sorted(model.graph.initializers.items()):
        tensor = weight.const_value
        if tensor is None:
            continue
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        content = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)
        for start in range(0, content.size, _CHUNK):
            digest.update(content[start : start + _CHUNK].data)
    return digest.hexdigest()


def observable_values(model: ir.Model, *, bodies: bool = False) -> dict[str, ir.Value]:
    """Graph inputs and outputs of the main graph's nodes, by name; with ``bodies`` also those of If, Loop and Scan."""
    graphs = control_flow_graphs(model.graph) if bodies else [model.graph]
    return {
        value.name: value
        for graph in graphs
        for value in (*graph.inputs, *(output for node in graph for output in node.outputs))
        if value.name
    }
