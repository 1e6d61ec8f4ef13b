"""Small models with one custom operator."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from vqonnx.core.custom_ops import DOMAIN, VERSION


def extensions():
    """onnxruntime-extensions, or a skip that says why."""
    return pytest.importorskip("onnxruntime_extensions", reason="there is no onnxruntime-extensions for this platform")


def custom_model(op_type, inputs, output, attributes, *, domain=DOMAIN, constants=()):
    """A model of one node; ``inputs`` are (type, shape), shapes may be None."""
    names = [f"x{i}" for i in range(len(inputs))]
    constant_names = [tensor.name for tensor in constants]
    node = helper.make_node(op_type, names + constant_names, ["y"], "custom", domain=domain, **attributes)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(name, *one) for name, one in zip(names, inputs, strict=True)],
        [helper.make_tensor_value_info("y", output, None)],
        list(constants),
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(domain, VERSION)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def float_model(op_type, attributes, shape=None, **more):
    return custom_model(op_type, [(TensorProto.FLOAT, shape)], TensorProto.FLOAT, attributes, **more)


def feeds_of(*arrays):
    return {f"x{i}": np.asarray(array) for i, array in enumerate(arrays)}
