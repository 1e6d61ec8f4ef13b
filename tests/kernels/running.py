"""Run one operator in ONNX Runtime."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper


def run_op(node, feeds, constants, opset=21, output=TensorProto.FLOAT):
    ort = pytest.importorskip("onnxruntime")
    kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in feeds.items()}
    graph = helper.make_graph(
        node if isinstance(node, list) else [node],
        "g",
        [helper.make_tensor_value_info(name, kinds[name], array.shape) for name, array in feeds.items()],
        [helper.make_tensor_value_info("y", output, None)],
        constants,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def tensor(name, array):
    return onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
