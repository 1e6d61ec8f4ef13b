"""Which model this is, without reading its weights."""

import hashlib
from pathlib import Path

import numpy as np
import onnx_ir as ir

from vqonnx.graph.proto import initialized_values

_CHUNK = 1 << 24


def model_identity(model: ir.Model) -> str:
    """BLAKE2b digest, in hex, of nodes, inputs, functions and constants.

    A constant in a file counts by the file's path, size and time of change, as for ``make``: hashing the content of a
    large model takes as long as packing it. One in memory counts by its content.
    """
    digest = hashlib.blake2b(digest_size=20)
    digest.update(repr(sorted(model.opset_imports.items())).encode())
    for value in (*model.graph.inputs, *model.graph.outputs):
        digest.update(repr((value.name, value.dtype, str(value.shape))).encode())
    for part in (*model.graph, *model.functions.values()):
        digest.update(ir.to_proto(part).SerializeToString(deterministic=True))
    for value, tensor in initialized_values(model):
        digest.update(repr((value.name, tensor.dtype, tuple(tensor.shape))).encode())
        if isinstance(tensor, ir.ExternalTensor):
            status = Path(tensor.path).stat()
            place = (str(tensor.path), tensor.offset, tensor.length, status.st_size, status.st_mtime_ns)
            digest.update(repr(place).encode())
        else:
            _add_content(digest, tensor)
    return digest.hexdigest()


def _add_content(digest: "hashlib.blake2b", tensor: ir.TensorProtocol) -> None:
    if tensor.dtype == ir.DataType.STRING:
        digest.update(repr(tensor.numpy().tolist()).encode())
        return
    content = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)
    for start in range(0, content.size, _CHUNK):
        digest.update(content[start : start + _CHUNK].data)
