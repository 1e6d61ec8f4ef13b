"""Read a model of one file without its large tensors, which stay where they are and are mapped when they are needed.

Protobuf's own way copies every tensor into memory, whatever is done with it afterwards. Here the message is walked in
its wire format (https://protobuf.dev/programming-guides/encoding), and the raw data of large initializers of the main
graph are replaced by a reference to their place in the file: external data whose file is the model itself.
"""

import onnx

from vqonnx.graph.wire import Field, delimited, fields

_GRAPH = onnx.ModelProto.GRAPH_FIELD_NUMBER
_INITIALIZER = onnx.GraphProto.INITIALIZER_FIELD_NUMBER
_RAW_DATA = onnx.TensorProto.RAW_DATA_FIELD_NUMBER


def without_large_tensors(view: memoryview, file_name: str, least: int) -> bytes:
    """The serialized model with references in place of large tensors.

    Args:
        view: The whole file.
        file_name: Its name, which the references bear.
        least: Bytes from which on a tensor counts as large.

    Raises:
        MalformedError: The file is not a protobuf message.
    """
    parts: list[bytes] = []
    for field in fields(view, 0, len(view)):
        if field.number == _GRAPH:
            parts.append(delimited(_GRAPH, _graph(view, field, file_name, least)))
        else:
            parts.append(bytes(view[field.start : field.stop]))
    return b"".join(parts)


def _graph(view: memoryview, graph: Field, file_name: str, least: int) -> bytes:
    parts: list[bytes] = []
    copied = graph.content  # what lies between two large tensors is taken over in one piece
    for field in fields(view, graph.content, graph.stop):
        if field.number != _INITIALIZER or field.stop - field.start < least:
            continue
        raw = next((one for one in fields(view, field.content, field.stop) if one.number == _RAW_DATA), None)
        if raw is None or raw.stop - raw.content < least:
            continue
        reference = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
        place = {"location": file_name, "offset": raw.content, "length": raw.stop - raw.content}
        for key, value in place.items():
            reference.external_data.add(key=key, value=str(value))
        header = bytes(view[field.content : raw.start]) + bytes(view[raw.stop : field.stop])
        # The fields of a message may come in any order, and two parts of one message are its concatenation.
        parts += [bytes(view[copied : field.start]), delimited(_INITIALIZER, header + reference.SerializeToString())]
        copied = field.stop
    parts.append(bytes(view[copied : graph.stop]))
    return b"".join(parts)
