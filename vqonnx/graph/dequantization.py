"""A quantized constant as the float numbers that it stands for."""

import numpy as np
import onnx_ir as ir

from vqonnx.graph.evaluation import Inputs, Outcome, input_at
from vqonnx.graph.facts import int_attribute


def dequantized(node: ir.Node, inputs: Inputs) -> Outcome | None:
    """DequantizeLinear of constants: (x - zero point) * scale (ONNX, opset 10 to 25, and com.microsoft's).

    The scale is one number, a vector along ``axis`` (default 1), or, with ``block_size``, one number a block
    along ``axis``. The result has its type unless ``output_dtype`` (opset 23) names another.
    """
    tensor, scale_tensor, zero_tensor = inputs[0], inputs[1], input_at(inputs, 2)
    absent = len(node.inputs) < 3 or node.inputs[2] is None
    if tensor is None or scale_tensor is None or (zero_tensor is None and not absent):
        return None
    axis, block = int_attribute(node, "axis", 1), int_attribute(node, "block_size", 0)
    dtype = ir.DataType(int_attribute(node, "output_dtype", 0) or scale_tensor.dtype)
    shape = tuple(tensor.shape.numpy())

    def compute() -> np.ndarray:
        # Differences of integers are exact in float32 up to 16 bits, in float64 up to 32; the product is rounded once.
        steps = tensor.numpy().astype(np.float32 if tensor.dtype.bitwidth <= 16 else np.float64)
        if zero_tensor is not None:
            np.subtract(steps, _spread(zero_tensor.numpy().astype(steps.dtype), shape, axis, block), out=steps)
        product = steps.astype(np.float32, copy=False)
        product *= _spread(scale_tensor.numpy().astype(np.float32), shape, axis, block)
        return product.astype(dtype.numpy(), copy=False)

    return Outcome(dtype, shape, compute)


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
