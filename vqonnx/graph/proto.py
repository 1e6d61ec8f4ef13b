"""The border to protobuf: ``onnx.ModelProto`` in, ``onnx.ModelProto`` out."""

import contextlib
import copy
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]

from vqonnx.errors import ModelError
from vqonnx.graph import sparse, walk
from vqonnx.graph.edit import free_negative_sizes

PROTO_LIMIT = (1 << 31) - 1
"""Bytes that one protobuf message can hold."""

_T = TypeVar("_T")


def from_proto(proto: onnx.ModelProto, *, owned: bool = False, path: str | None = None) -> ir.Model:
    """The IR of ``proto``, checked to be whole; external tensors are not looked at here.

    Args:
        proto: The model. It is not changed, whatever is done to the result.
        owned: The caller gives ``proto`` away, so that its tensors need no guard.
        path: Where it came from, for messages.

    Raises:
        ModelError: No graph or opset, values without a source, a part that cannot be kept, or broken fields.
    """
    _refuse_partial(proto, path)
    if sparse.has_sparse(proto):
        if not owned:
            proto, owned = copy.deepcopy(proto), True
        sparse.densify(proto)
    try:
        model = ir.serde.deserialize_model(proto)
    except (ir.serde.SerdeError, ValueError, TypeError) as error:
        raise ModelError(
            f"{_called(path)} is not valid ONNX: {_root_cause(error)}. Check it with onnx.checker and export it again.",
            path=path,
        ) from error
    if not owned:
        guard_tensors(model)
    _refuse_bytes(model, path)
    _refuse_untyped(model, path)
    _refuse_dangling(model, path)
    _settle(model)
    return model


def guard_tensors(model: ir.Model) -> None:
    """Give each initializer and each attribute a tensor object of our own over the same data.

    Renaming a value renames its tensor object, and a tensor made from protobuf passes that on to the
    caller's message (onnx_ir 1.1). A Constant's attribute becomes that of an initializer.
    """
    for graph in walk.graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = _guarded(value.const_value)
        for node in graph:
            for name, attribute in node.attributes.items():
                if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                    node.attributes[name] = ir.AttrTensor(name, _guarded(attribute.as_tensor()), attribute.doc_string)


def _guarded(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    return lazy(tensor) if isinstance(tensor, ir.serde.TensorProtoTensor) else copy.copy(tensor)


def lazy(tensor: ir.TensorProtocol) -> ir.LazyTensor:
    """``tensor`` behind a name of its own; read at each use, never kept."""
    return ir.LazyTensor(
        functools.partial(_same, tensor),
        dtype=tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name,
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )


def _same(value: _T) -> _T:
    return value


def in_typed_fields(array: np.ndarray, name: str) -> ir.TensorProtocol:
    """A small tensor whose message has its numbers in ``float_data`` or ``int32_data``, where some programs look."""
    dtype = ir.DataType.from_numpy(array.dtype)  # onnx before 1.19 knows no 4-bit types of ml_dtypes
    return ir.serde.TensorProtoTensor(onnx.helper.make_tensor(name, dtype, array.shape, array.reshape(-1)))


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """``model`` as one message that stands alone: external tensors are read and put inline.

    Raises:
        ModelError: The tensors do not fit into one message of 2 GiB.
    """
    initializers = list(initialized_values(model))
    total = sum(tensor.nbytes for _, tensor in initializers)
    if total >= PROTO_LIMIT:
        raise ModelError(
            f"the model's tensors take {total:,} bytes, but a ModelProto holds at most {PROTO_LIMIT:,}. "
            "Work on the file: pass paths instead of a ModelProto."
        )
    inline = {value: lazy(tensor) for value, tensor in initializers if isinstance(tensor, ir.ExternalTensor)}
    with tensors_replaced(inline):
        return message_of(model)


def serialized(model: ir.Model, tensors: Mapping[ir.Value, ir.TensorProtocol]) -> bytes:
    """``model`` as bytes, with ``tensors`` in place of what these values hold; equal input, equal bytes.

    Raises:
        ModelError: It does not fit into one message.
    """
    with tensors_replaced(tensors):
        return _bytes(message_of(model))


def serialized_parts(
    model: ir.Model, tensors: Mapping[ir.Value, ir.TensorProtocol], apart: Mapping[ir.Value, ir.TensorProtocol]
) -> tuple[bytes, bytes, list[bytes]]:
    """``serialized`` in parts: the model without its graph, the graph, and each tensor of ``apart`` without data.

    Raises:
        ModelError: See ``serialized``.
    """
    empty = {
        value: ir.ExternalTensor(
            "",
            None,
            None,
            t.dtype,
            shape=ir.Shape(t.shape.numpy()),
            name=value.name or "",
            doc_string=t.doc_string,
            metadata_props=dict(t.metadata_props),
        )
        for value, t in apart.items()
    }
    with tensors_replaced({**tensors, **empty}):
        proto = message_of(model)
    names = {value.name for value in apart}
    headers = {tensor.name: tensor for tensor in proto.graph.initializer if tensor.name in names}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name not in names]
    for header in headers.values():
        header.ClearField("external_data")
        header.ClearField("data_location")
    contents = [_bytes(headers[value.name or ""]) for value in apart]
    graph = onnx.GraphProto()
    graph.CopyFrom(proto.graph)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    proto.ClearField("graph")
    return _bytes(proto), _bytes(graph), contents


def message_of(model: ir.Model) -> onnx.ModelProto:
    """The model as onnx_ir writes it, with references to external data.

    Raises:
        ModelError: It holds what a damaged file gave it and what is read only now.
    """
    try:
        return ir.serde.serialize_model(model)
    except ir.serde.SerdeError as error:
        raise ModelError(
            f"the model cannot be written: {_root_cause(error)}. It was damaged when it was read; export it again."
        ) from error


def _bytes(message: onnx.ModelProto | onnx.GraphProto | onnx.TensorProto) -> bytes:
    try:
        return bytes(message.SerializeToString(deterministic=True))
    except (EncodeError, ValueError) as error:
        raise ModelError(
            f"the model does not fit into one message of {PROTO_LIMIT:,} bytes: {error}. "
            "What lies in Constant nodes and in subgraphs is too large; make it initializers of the main graph."
        ) from error


def initialized_values(model: ir.Model) -> Iterator[tuple[ir.Value, ir.TensorProtocol]]:
    """Each initializer of the model with its tensor, subgraphs included, in the order of ``walk.graphs``."""
    for graph in walk.graphs(model):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value, value.const_value


@contextlib.contextmanager
def tensors_replaced(tensors: Mapping[ir.Value, ir.TensorProtocol]) -> Iterator[None]:
    """Let these values hold other tensors inside the ``with`` block, to serialise them in another way."""
    before = {value: value.const_value for value in tensors}
    try:
        for value, tensor in tensors.items():
            value.const_value = tensor
        yield
    finally:
        for value, original in before.items():
            value.const_value = original


def _refuse_partial(proto: onnx.ModelProto, path: str | None) -> None:
    missing = [name for name, there in (("graph", proto.HasField("graph")), ("opset", proto.opset_import)) if not there]
    if missing:
        raise ModelError(
            f"{_called(path)} has no {' and no '.join(missing)}: it is not an ONNX model, or was cut off. "
            "Export or download it again.",
            path=path,
        )
    if proto.training_info:
        raise ModelError(
            f"{_called(path)} carries training_info, which a quantized model cannot keep. "
            "Remove it first: del model.training_info[:].",
            path=path,
        )


def _refuse_untyped(model: ir.Model, path: str | None) -> None:
    """Refuse constants and attributes of which nobody can tell what they hold."""
    for value, tensor in initialized_values(model):
        if tensor.dtype == ir.DataType.UNDEFINED:
            raise ModelError(
                f"{_called(path)} is not valid ONNX: {value.name!r} has no type. Export it again.", path=path
            )
    for node in walk.nodes(model):
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.UNDEFINED:
                raise ModelError(
                    f"{_called(path)} is not valid ONNX: {attribute.name!r} of node {node.name!r} has no type. "
                    "Export it again.",
                    path=path,
                )


def _refuse_bytes(model: ir.Model, path: str | None) -> None:
    """Refuse names that are no text: protobuf gives bytes for what is not UTF-8."""
    for node in walk.nodes(model):
        names = (node.name, node.domain, node.op_type, *node.attributes, *(value.name for value in node.outputs))
        _refuse_if_bytes(names, path)
    for graph in walk.graphs(model):
        _refuse_if_bytes((graph.name, *(value.name for value in graph.inputs), *graph.initializers), path)
    _refuse_if_bytes((part for identifier in model.functions for part in identifier), path)


def _refuse_if_bytes(names: Iterable[object], path: str | None) -> None:
    odd = next((name for name in names if isinstance(name, bytes)), None)
    if odd is not None:
        raise ModelError(
            f"{_called(path)} is not valid ONNX: the name {odd!r} is no UTF-8 text. It was damaged; export it again.",
            path=path,
        )


def _refuse_dangling(model: ir.Model, path: str | None) -> None:
    """Refuse a graph that reads a value nobody makes; onnx_ir only logs it."""
    for graph in walk.graphs(model):
        reads: Iterable[tuple[ir.Value | None, str]] = (
            *((value, f"node {node.name!r} ({node.op_type})") for node in graph for value in node.inputs),
            *((value, f"the output list of graph {graph.name!r}") for value in graph.outputs),
        )
        for value, reader in reads:
            if value is not None and not _has_source(value):
                raise ModelError(
                    f"{_called(path)} is not valid ONNX: {reader} reads {value.name!r}, which nothing produces. "
                    "Export it again.",
                    path=path,
                )


def _has_source(value: ir.Value) -> bool:
    return value.producer() is not None or value.is_graph_input() or value.is_initializer()


def _settle(model: ir.Model) -> None:
    """Bring old or loose forms to the one that all stages expect."""
    free_negative_sizes(model)
    if model.ir_version < 4:
        # Until IR version 4 every initializer had to be listed as an input, yet ORT treats it as a constant.
        kept = [value for value in model.graph.inputs if not value.is_initializer()]
        model.graph.inputs.clear()
        model.graph.inputs.extend(kept)
        model.ir_version = 4
    # ORT runs graphs in any order, so exporters get away with it; onnx_ir's clone does not.
    if not all(_is_sorted(graph) for graph in walk.graphs(model)):
        try:
            for root in [model.graph, *(function.graph for function in model.functions.values())]:
                root.sort()
        except ValueError as error:
            raise ModelError(f"graph {model.graph.name!r} has a cycle; a model must not.") from error


def _is_sorted(graph: ir.Graph) -> bool:
    position = {node: index for index, node in enumerate(graph)}
    return all(
        position.get(producer, -1) < index
        for node, index in position.items()
        for value in node.inputs
        if value is not None and (producer := value.producer()) is not None
    )


def _called(path: str | None) -> str:
    return "the model" if path is None else f"model {path!r}"


def _root_cause(error: BaseException) -> str:
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return f"{type(error).__name__}: {error}".rstrip(".")
