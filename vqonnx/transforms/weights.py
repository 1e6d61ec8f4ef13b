"""New numbers for a node's constant inputs: computed in float64, stored in the weight's own type."""

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vqonnx.graph.edit import add_initializer
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import FLOAT_TYPES, constant, constant_tensor

F64 = npt.NDArray[np.float64]


def float_constant(value: ir.Value | None) -> F64 | None:
    """The numbers of a constant of floating-point type, as a float64 array of our own; else None."""
    tensor = constant_tensor(value)
    if tensor is None or tensor.dtype not in FLOAT_TYPES:
        return None
    numbers = constant(value)
    return None if numbers is None else np.array(numbers, dtype=np.float64)


def stored(numbers: F64, dtype: ir.DataType) -> np.ndarray | None:
    """``numbers`` in ``dtype``; None where one is not finite there (float16 ends at 65504)."""
    with np.errstate(over="ignore"):
        result: np.ndarray = numbers.astype(dtype.numpy())
    # Not all of numpy's types: bfloat16 comes from ml_dtypes, which brings its own isfinite.
    return result if bool(np.isfinite(result).all()) else None


def set_constant(node: ir.Node, index: int, numbers: np.ndarray, names: NameAllocator, base: str) -> None:
    """Make input ``index`` of ``node`` the constant ``numbers``; other readers of the old one keep theirs.

    Args:
        node: A node of a graph.
        index: Which input; it may lie past the end of the present inputs.
        numbers: In the type that the node reads.
        names: Where a new name comes from.
        base: Wished name where there is no old constant to take the place of.
    """
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    old = node.inputs[index]
    if old is not None and _is_private(old):
        old.const_value = ir.Tensor(numbers, name=old.name)
        old.shape = ir.Shape(numbers.shape)
        return
    wished = base if old is None or old.name is None else old.name
    graph = node.graph
    if not isinstance(graph, ir.Graph):  # pragma: no cover - callers walk graphs
        raise TypeError(f"node {node.name!r} is in no graph")
    node.replace_input_with(index, add_initializer(graph, names.unique(wished), numbers))


def _is_private(value: ir.Value) -> bool:
    """Whether one node input alone reads this initializer, so that it may change in place and keep its name."""
    exposed = value.is_graph_input() or value.is_graph_output()
    return value.is_initializer() and not exposed and len(value.uses()) == 1
