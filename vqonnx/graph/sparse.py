"""Sparse tensors, made dense at the border: neither onnx_ir nor the kernels know them."""

import math
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from vqonnx.errors import ModelError

MAX_DENSE_BYTES = 1 << 31
"""A few bytes of indices may stand for terabytes of zeros; past this a file is refused, not expanded."""


def has_sparse(proto: onnx.ModelProto) -> bool:
    """Whether any graph holds a sparse initializer, or any Constant a sparse value."""
    return any(
        graph.sparse_initializer or any(_sparse_attribute(node) for node in graph.node) for graph in _graphs(proto)
    )


def densify(proto: onnx.ModelProto) -> None:
    """Replace each sparse initializer and Constant ``sparse_value`` by its dense tensor, in place.

    Raises:
        ModelError: A tensor is malformed, or its dense form is larger than ``MAX_DENSE_BYTES``.
    """
    for graph in _graphs(proto):
        graph.initializer.extend([dense(tensor) for tensor in graph.sparse_initializer])
        graph.ClearField("sparse_initializer")
        for node in graph.node:
            for attribute in _sparse_attribute(node):
                tensor = dense(attribute.sparse_tensor)
                attribute.Clear()
                attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
                attribute.t.CopyFrom(tensor)


def dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    """The dense tensor of ``sparse``: zeros of shape ``dims`` with its values at its indices.

    Indices are [NNZ], into the flattened tensor, or [NNZ, rank] (ONNX IR, SparseTensorProto).

    Raises:
        ModelError: See ``densify``.
    """
    name, shape = sparse.values.name, tuple(sparse.dims)
    if sparse.values.data_location == sparse.values.EXTERNAL or sparse.indices.data_location == 1:
        raise ModelError(f"sparse tensor {name!r} keeps its data in another file; save the model with it inline.")
    values = numpy_helper.to_array(sparse.values)
    nbytes = math.prod(shape) * values.itemsize
    if min(shape, default=0) < 0 or nbytes > MAX_DENSE_BYTES:
        raise ModelError(
            f"sparse tensor {name!r} of shape {shape} takes {nbytes:,} bytes when made dense; the limit is "
            f"{MAX_DENSE_BYTES:,}. Store it dense, as external data."
        )
    out = np.zeros(math.prod(shape), dtype=values.dtype)
    out[_flat_indices(sparse, name, shape)] = values
    return numpy_helper.from_array(out.reshape(shape), name)


def _flat_indices(sparse: onnx.SparseTensorProto, name: str, shape: tuple[int, ...]) -> np.ndarray:
    indices = numpy_helper.to_array(sparse.indices).astype(np.int64)
    count = sparse.values.dims[0] if sparse.values.dims else 0
    matches = indices.shape in ((count,), (count, len(shape)))
    limits = np.array(math.prod(shape) if indices.ndim == 1 else shape)
    if not matches or np.any(indices < 0) or np.any(indices >= limits):
        raise ModelError(
            f"sparse tensor {name!r} of shape {shape} has {count} values, but its indices of shape {indices.shape} "
            "do not fit them or point outside. The file is damaged; export it again."
        )
    return indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)


def _sparse_attribute(node: onnx.NodeProto) -> list[onnx.AttributeProto]:
    if node.op_type != "Constant":
        return []
    return [attribute for attribute in node.attribute if attribute.type == onnx.AttributeProto.SPARSE_TENSOR]


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield proto.graph
    holders = list(proto.graph.node)
    holders.extend(node for function in proto.functions for node in function.node)
    while holders:
        for attribute in holders.pop().attribute:
            for body in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                yield body
                holders.extend(body.node)
