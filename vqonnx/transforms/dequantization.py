"""A quantized constant as the float numbers that it stands for."""

import numpy as np
import onnx_ir as ir

from vqonnx.graph.facts import int_attribute
from vqonnx.graph.walk import constant, constant_tensor
from vqonnx.transforms.evaluation import Outcome


def dequantized(node: ir.Node) -> Outcome | None:
    """DequantizeLinear of constants: (x - zero point) * scale in the scale's type (ONNX, opset 10 to 23).

    The scale is one number, a vector along ``axis`` (default 1), or, with ``block_size``, one number a block
    along ``axis``.
    """
    tensor = constant_tensor(node.inputs[0])
    scale = constant(node.inputs[1])
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    absent = len(node.inputs) < 3 or node.inputs[2] is None
    scale_tensor = constant_tensor(node.inputs[1])
    if tensor is None or scale is None or scale_tensor is None or (zero is None and not absent):
        return None
    axis, block = int_attribute(node, "axis", 1), int_attribute(node, "block_size", 0)
    shape = tuple(tensor.shape.numpy())

    def compute() -> np.ndarray:
        # Integers up to 32 bits and their differences are exact in float64; the product is rounded once.
        steps = tensor.numpy().astype(np.float64)
        if zero is not None:
            steps -= _spread(zero.astype(np.float64), shape, axis, block)
        product = steps.astype(np.float32) * _spread(scale.astype(np.float32), shape, axis, block)
        return np.asarray(product, dtype=scale.dtype)

    return Outcome(scale_tensor.dtype, shape, compute)


def _spread(parameter: np.ndarray, shape: tuple[int, ...], axis: int, block: int) -> np.ndarray:
    """One parameter for every element of ``shape``, or an array that broadcasts to it."""
    if block:
        repeated = np.repeat(parameter, block, axis=axis)
        keep = tuple(slice(size) for size in shape)
        return repeated[keep]
    if parameter.size == 1:
        return parameter.reshape(())
    aligned = [1] * len(shape)
    aligned[axis] = parameter.size
    return parameter.reshape(aligned)
