"""Which tensors of a model calibration measures."""

from collections.abc import Collection
from os import PathLike
from pathlib import Path

import onnx_ir as ir

from vqonnx.graph.io import load
from vqonnx.graph.versions import least_ir_version
from vqonnx.transforms.shapes import infer_shapes

_CALIBRATED = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})


def read_model(path: str | PathLike[str]) -> ir.Model:
    """The model of a file, with the types that follow from what it states.

    Raises:
        ModelError: It cannot be read.
    """
    model = load(Path(path))
    model.ir_version = least_ir_version(model)  # exporters may be ahead of ONNX Runtime
    infer_shapes(model)
    return model


def tensors_to_calibrate(model: ir.Model, op_types: Collection[str] | None = None) -> dict[str, ir.Value]:
    """The float32 and float16 inputs and outputs of the main graph's nodes of these types, of all when there are none.

    Constants are left out, and what is not of a known type. By name, in graph order.
    """
    tensors = (
        value
        for node in model.graph
        if not op_types or node.op_type in op_types
        for value in (*node.inputs, *node.outputs)
        if value is not None and value.dtype in _CALIBRATED
    )
    constants = model.graph.initializers
    return {value.name: value for value in tensors if value.name and value.name not in constants}
