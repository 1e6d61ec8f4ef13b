"""What tests ask of messages."""

import numpy as np
import onnx


def arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Initializers of the main graph by name."""
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def ops(model: onnx.ModelProto) -> list[str]:
    """Operators of the main graph."""
    return [node.op_type for node in model.graph.node]


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    """Attributes by name."""
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def described(model: onnx.ModelProto) -> list[tuple[object, ...]]:
    """All that there is to say of the nodes of the main graph, attributes in no order."""
    return [
        (node.name, node.domain, node.op_type, list(node.input), list(node.output), attributes(node))
        for node in model.graph.node
    ]


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Another message with the same content, for those who change what they are given."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
