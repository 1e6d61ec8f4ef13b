"""The IR version to write: the least that the model needs, so that the most runtimes read it."""

import itertools

import onnx.helper
import onnx_ir as ir

from vqonnx.graph import walk

BASE_IR_VERSION = 10
"""4-bit integers, node metadata; ONNX Runtime reads it since 1.18."""

# The IR versions that brought each type (onnx.proto3, "Version" enum and its comments).
_TYPE_VERSIONS = {
    ir.DataType.FLOAT4E2M1: 11,
    ir.DataType.FLOAT8E8M0: 12,
    ir.DataType.INT2: 13,
    ir.DataType.UINT2: 13,
    ir.DataType.FLOAT6E2M3: 14,
    ir.DataType.FLOAT6E3M2: 14,
}
_DEVICE_CONFIGURATION_VERSION = 11


def least_ir_version(model: ir.Model) -> int:
    """At least ``BASE_IR_VERSION``; more where an opset, a data type or a device configuration asks for it."""
    imports = [model.opset_imports, *(function.opset_imports for function in model.functions.values())]
    opsets = [
        onnx.helper.make_opsetid(domain, version)
        for domain, version in itertools.chain.from_iterable(table.items() for table in imports)
    ]
    by_opset = onnx.helper.find_min_ir_version_for(opsets, ignore_unknown=True)
    by_type = max((_TYPE_VERSIONS.get(value.dtype, 0) for value in walk.values(model) if value.dtype), default=0)
    by_device = _DEVICE_CONFIGURATION_VERSION if model.device_configurations else 0
    return max(BASE_IR_VERSION, by_opset, by_type, by_device)
