"""One node of a model as a model of its own."""

from collections.abc import Mapping

import onnx_ir as ir

from vqonnx.graph.walk import constant_tensor


def node_alone(source: ir.Model, node: ir.Node, instead: Mapping[int, ir.TensorProtocol]) -> ir.Model:
    """A copy of ``node`` that lives on when its model is rewritten; constants are shared, the rest becomes inputs.

    Args:
        source: The node's model.
        node: The node; one without bodies.
        instead: Other tensors for some inputs, by index.
    """
    inputs: list[ir.Value | None] = []
    fed: dict[ir.Value, ir.Value] = {}
    constants: dict[ir.Value, ir.Value] = {}
    for index, value in enumerate(node.inputs):
        tensor = instead.get(index) or constant_tensor(value)
        if value is None:
            inputs.append(None)
        elif tensor is not None:
            inputs.append(constants.setdefault(value, _initializer(value, tensor)))
        else:
            inputs.append(fed.setdefault(value, ir.Value(name=value.name, type=value.type)))
    outputs = [ir.Value(name=output.name, type=output.type) for output in node.outputs]
    alone = ir.node(node.op_type, inputs, node.attributes, domain=node.domain, outputs=outputs, name=node.name)
    graph = ir.Graph(
        list(fed.values()),
        [output for output in outputs if output.name],
        nodes=[alone],
        initializers=list(constants.values()),
        opset_imports=dict(source.graph.opset_imports),
        name="alone",
    )
    return ir.Model(graph, ir_version=source.ir_version)


def _initializer(value: ir.Value, tensor: ir.TensorProtocol) -> ir.Value:
    shape = ir.Shape(tensor.shape.numpy())
    return ir.Value(name=value.name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=shape)
