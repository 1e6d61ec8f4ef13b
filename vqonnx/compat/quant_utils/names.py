"""Names of operators and tensors, and look-ups by name."""

from collections.abc import Sequence
from typing import Any

import onnx
from onnx import TensorProto

from vqonnx.compat.onnx_model import find_by_name

__all__ = [
    "DEQUANT_OP_NAME",
    "DEQUANT_OUTPUT_SUFFIX",
    "MODEL_SIZE_THRESHOLD",
    "QUANT_INPUT_SUFFIX",
    "QUANT_OP_NAME",
    "TENSOR_NAME_QUANT_SUFFIX",
    "add_dequant_input_suffix",
    "add_dequant_output_suffix",
    "add_dequant_suffix",
    "add_quant_input_suffix",
    "add_quant_output_suffix",
    "add_quant_suffix",
    "attribute_to_kwarg",
    "find_by_name",
    "get_elem_index",
    "get_mul_node",
    "ms_domain",
    "onnx_domain",
    "type_to_name",
]

onnx_domain = "ai.onnx"
ms_domain = "com.microsoft"
QUANT_OP_NAME = "QuantizeLinear"
QUANT_INPUT_SUFFIX = "_QuantizeLinear_Input"
DEQUANT_OP_NAME = "DequantizeLinear"
DEQUANT_OUTPUT_SUFFIX = "_DequantizeLinear_Output"
TENSOR_NAME_QUANT_SUFFIX = "_quantized"
MODEL_SIZE_THRESHOLD = 2147483648
"""Bytes from which on a model needs a data file."""
type_to_name = {number: name for name, number in TensorProto.DataType.items()}


def add_quant_suffix(tensor_name: str) -> str:
    """The name of the node that quantizes a tensor."""
    return f"{tensor_name}_{QUANT_OP_NAME}"


def add_quant_input_suffix(tensor_name: str) -> str:
    """What a graph output is called before it is quantized."""
    return f"{tensor_name}{QUANT_INPUT_SUFFIX}"


def add_quant_output_suffix(tensor_name: str) -> str:
    """The codes of a tensor."""
    return f"{tensor_name}_{QUANT_OP_NAME}_Output"


def add_dequant_suffix(tensor_name: str) -> str:
    """The name of the node that dequantizes a tensor."""
    return f"{tensor_name}_{DEQUANT_OP_NAME}"


def add_dequant_input_suffix(tensor_name: str) -> str:
    """What is dequantized."""
    return f"{tensor_name}_{DEQUANT_OP_NAME}_Input"


def add_dequant_output_suffix(tensor_name: str) -> str:
    """The dequantized tensor."""
    return f"{tensor_name}{DEQUANT_OUTPUT_SUFFIX}"


def attribute_to_kwarg(attribute: onnx.AttributeProto) -> dict[str, Any]:
    """An attribute as a keyword argument of ``onnx.helper.make_node``.

    Raises:
        ValueError: It has no type.
    """
    if attribute.type == onnx.AttributeProto.UNDEFINED:
        raise ValueError(f"attribute {attribute.name!r} has no type")
    return {attribute.name: onnx.helper.get_attribute_value(attribute)}


def get_elem_index(elem_name: object, elem_list: Sequence[object]) -> int:
    """Where an element stands last in a list; -1 if it does not."""
    return max((index for index, element in enumerate(elem_list) if element == elem_name), default=-1)


def get_mul_node(inputs: Sequence[str], output: str, name: str) -> onnx.NodeProto:
    """A Mul."""
    return onnx.helper.make_node("Mul", inputs, [output], name)
