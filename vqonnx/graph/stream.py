"""Write a model with its tensors inside, tensor by tensor.

Protobuf's own way holds three copies of all tensors at once. Here the small parts are serialised as usual and the
large tensors follow as further ``initializer`` fields at the end of the graph, field by field.
"""

from collections.abc import Mapping
from typing import BinaryIO

import onnx
import onnx_ir as ir

from vqonnx.errors import ModelError
from vqonnx.graph.external import whole_bytes
from vqonnx.graph.proto import PROTO_LIMIT, serialized_parts
from vqonnx.graph.walk import release
from vqonnx.graph.wire import prefix


def write_inline(
    model: ir.Model,
    tensors: Mapping[ir.Value, ir.TensorProtocol],
    large: Mapping[ir.Value, ir.TensorProtocol],
    file: BinaryIO,
) -> None:
    """Write ``model`` as one message; equal models give equal bytes.

    Args:
        model: Not changed.
        tensors: What some values hold in the message instead of their own tensors.
        large: Initializers of the main graph that are written one at a time, after all others.
        file: Where to write.

    Raises:
        ModelError: It does not fit into one message.
    """
    shell, graph, headers = serialized_parts(model, tensors, large)
    fields = [
        (header, tensor, prefix(onnx.TensorProto.RAW_DATA_FIELD_NUMBER, tensor.nbytes))
        for header, tensor in zip(headers, large.values(), strict=True)
    ]
    bodies = [len(header) + len(raw) + tensor.nbytes for header, tensor, raw in fields]
    starts = [prefix(onnx.GraphProto.INITIALIZER_FIELD_NUMBER, body) for body in bodies]
    size = len(graph) + sum(map(len, starts)) + sum(bodies)
    if len(shell) + size >= PROTO_LIMIT:
        raise ModelError(
            f"the model takes {len(shell) + size:,} bytes and does not fit into one message of {PROTO_LIMIT:,}. "
            "Save it with external data."
        )
    file.write(shell)
    file.write(prefix(onnx.ModelProto.GRAPH_FIELD_NUMBER, size))
    file.write(graph)
    for start, (header, tensor, raw) in zip(starts, fields, strict=True):
        for piece in (start, header, raw, whole_bytes(tensor)):
            file.write(piece)
        release(tensor)
