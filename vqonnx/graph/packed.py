"""Tensors by their bytes: read without unpacking what shares a byte, and written without being kept."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vqonnx.graph.external import whole_bytes

U8 = npt.NDArray[np.uint8]


def packed_data(tensor: ir.TensorProtocol) -> U8:
    """The tensor's bytes as they lie, uint8 [nbytes], read-only; mapped where they lie in a file.

    onnx_ir's own ``numpy()`` gives codes of 2 and 4 bits a byte each.

    Raises:
        ModelError: The model file holds more or fewer bytes than shape and type say.
    """
    if not isinstance(tensor, ir.ExternalTensor):
        return np.frombuffer(whole_bytes(tensor), np.uint8)
    size = tensor.nbytes
    as_bytes = ir.ExternalTensor(
        tensor.path, tensor.offset, size, ir.DataType.UINT8, shape=ir.Shape([size]), name=tensor.name
    )
    data: U8 = as_bytes.numpy()
    return data


def computed_tensor(
    compute: Callable[[], np.ndarray], dtype: ir.DataType, shape: Sequence[int], name: str = ""
) -> ir.LazyTensor:
    """A tensor whose data ``compute`` gives at each reading, so that a model may hold more of them than memory.

    Args:
        compute: Gives the numbers, or, for types of less than 8 bits, their packed bytes; of any shape.
        dtype: Element type; numbers of the same width are reinterpreted, not converted.
        shape: Of the tensor.
        name: Its name.
    """

    def make() -> ir.TensorProtocol:
        array = np.ascontiguousarray(compute())
        if dtype.bitwidth < 8:
            return ir.PackedTensor(array.reshape(-1), dtype, shape=shape)
        return ir.Tensor(array.view(dtype.numpy()).reshape(shape), dtype=dtype)

    return ir.LazyTensor(make, dtype=dtype, shape=ir.Shape(shape), name=name)
