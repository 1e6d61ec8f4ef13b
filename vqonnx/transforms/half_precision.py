"""Models of float16 or bfloat16 as models of float32, for devices and kernels that have no half precision."""

import numpy as np
import onnx_ir as ir

from vqonnx.errors import UnsupportedModelError
from vqonnx.graph.edit import insert_after, insert_first, make_node, replace_uses
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import nodes, values
from vqonnx.transforms.constants import LAZY_ABOVE

HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

_TYPE_ATTRIBUTES = frozenset(
    {"to", "dtype", "output_dtype", "output_datatype", "softmax_precision", "precision", "stash_type"}
)
"""Integers that name an element type, in ONNX's operators and in ONNX Runtime's."""


def half_to_float(model: ir.Model, *, keep_border: bool = False) -> int:
    """Make every tensor of half precision float32; return how many values changed.

    Covers initializers, types of values in bodies and functions, tensors, types and Casts among attributes.
    Outputs move by what half precision rounded, and numbers beyond 65504 no longer become infinite. Large tensors
    are converted each time they are read, so that a mapped file stays a file.

    Args:
        model: Any model, edited in place.
        keep_border: Leave inputs and outputs in half precision, with Casts inside. Else the caller feeds and fetches
            float32.

    Raises:
        UnsupportedModelError: A function takes an element type from its call; or the border is to be kept, but an
            input or output is a sequence or an optional of half tensors.
    """
    _refuse_open_types(model)
    kept, cast = _border(model.graph) if keep_border else ((), ())
    changed = [value for value in values(model) if value not in kept and _change_value(value)]
    for node in nodes(model):
        _change_attributes(node)
    names = NameAllocator.of(model)
    for value in kept:
        _cast_readers(value, names)
    for value, dtype in cast:
        _cast_output(value, dtype, names)
    return len(changed)


def _change_value(value: ir.Value) -> bool:
    tensor = value.const_value
    is_half = tensor is not None and tensor.dtype in HALVES
    if tensor is not None and is_half:
        value.const_value = _widened(tensor)
    kind = _wide_type(value.type)
    if kind is value.type:
        return is_half
    value.type = kind
    return True


def _wide_type(kind: ir.TypeProtocol | None) -> ir.TypeProtocol | None:
    """``kind`` with float32 for half precision, at any depth; the same object where nothing changes."""
    if isinstance(kind, (ir.TensorType, ir.SparseTensorType)):
        return type(kind)(ir.DataType.FLOAT, denotation=kind.denotation) if kind.dtype in HALVES else kind
    if isinstance(kind, (ir.SequenceType, ir.OptionalType)):
        inner = _wide_type(kind.elem_type)
        return kind if inner is kind.elem_type or inner is None else type(kind)(inner, denotation=kind.denotation)
    return kind


def _widened(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    shape, name = ir.Shape(tensor.shape.numpy()), tensor.name

    def converted() -> ir.TensorProtocol:
        return ir.Tensor(tensor.numpy().astype(np.float32), shape=shape, name=name)

    if tensor.nbytes > LAZY_ABOVE:
        return ir.LazyTensor(converted, dtype=ir.DataType.FLOAT, shape=shape, name=name)
    return converted()


def _change_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if attribute.is_ref():
            continue
        if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in HALVES:
            node.attributes[name] = ir.AttrTensor(name, _widened(attribute.as_tensor()))
        elif attribute.type == ir.AttributeType.TYPE_PROTO:
            stated = attribute.value
            node.attributes[name] = ir.AttrTypeProto(name, ir.TypeAndShape(_wide_type(stated.type), stated.shape))
        elif _names_half(attribute):
            node.attributes[name] = ir.AttrInt64(name, ir.DataType.FLOAT)


def _names_half(attribute: ir.Attr) -> bool:
    return (
        attribute.name in _TYPE_ATTRIBUTES
        and attribute.type == ir.AttributeType.INT
        and attribute.as_int() in {*map(int, HALVES)}
    )


def _refuse_open_types(model: ir.Model) -> None:
    for node in nodes(model):
        for attribute in node.attributes.values():
            if attribute.is_ref() and attribute.name in _TYPE_ATTRIBUTES:
                raise UnsupportedModelError(
                    f"cannot change the types in a function: {attribute.name!r} of its node {node.name!r} "
                    f"({node.op_type}) is given by each call. Write the functions out first "
                    "(transforms.functions.inline_functions).",
                    node=node.name,
                )


def _border(graph: ir.Graph) -> tuple[tuple[ir.Value, ...], tuple[tuple[ir.Value, ir.DataType], ...]]:
    """The border's values that stay half as they are, since nothing computes them; and those to cast, with their type.

    Raises:
        UnsupportedModelError: One is a sequence or an optional.
    """
    half = dict.fromkeys(value for value in (*graph.inputs, *graph.outputs) if value.dtype in HALVES)
    for value in half:
        if not isinstance(value.type, ir.TensorType):
            raise UnsupportedModelError(
                f"cannot keep {value.name!r} as it is: its type is {value.type}, which no operator casts. "
                "Let the border become float32 too."
            )
    kept = tuple(value for value in half if value.producer() is None)
    cast = [(value, value.dtype) for value in half if value.producer() is not None]
    return kept, tuple((value, dtype) for value, dtype in cast if dtype is not None)


def _cast_readers(value: ir.Value, names: NameAllocator) -> None:
    """Let the nodes that read ``value`` read it as float32."""
    readers = value.uses()
    if not readers or value.graph is None:
        return
    cast = make_node(names, "Cast", [value], {"to": ir.DataType.FLOAT}, name=f"{value.name}_cast")
    insert_first(value.graph, cast)
    cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), value.shape
    for node, index in readers:
        node.replace_input_with(index, cast.outputs[0])


def _cast_output(value: ir.Value, dtype: ir.DataType, names: NameAllocator) -> None:
    producer = value.producer()
    if producer is None:  # pragma: no cover - _border looked
        raise TypeError(f"output {value.name!r} has no producer")
    cast = make_node(names, "Cast", [value], {"to": dtype}, name=f"{value.name}_cast")
    cast.outputs[0].type = ir.TensorType(dtype)
    readers = value.consumers()
    insert_after(producer, cast)
    replace_uses(value, cast.outputs[0], names, keep=readers)
