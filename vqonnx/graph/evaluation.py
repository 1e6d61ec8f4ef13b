"""What a node with constant inputs yields, in numpy with ONNX's meaning; nothing is computed until asked for.

A rule returns None where it cannot promise the bits that ONNX Runtime would compute: casts from floating point
to integers (undefined out of range), integer division, string types. Source: ONNX's operator pages, opset 7 to 23.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from vqonnx.graph.facts import int_attribute
from vqonnx.graph.walk import FLOAT_TYPES, constant_tensor

Ints: TypeAlias = tuple[int, ...]
Inputs: TypeAlias = Sequence[ir.TensorProtocol | None]
"""The tensor of each input of a node; None where it is absent or not constant."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a node before it is computed.

    Attributes:
        dtype: Its element type.
        shape: Its shape.
        compute: Makes the array; it may be a view of an input.
        source: The input whose numbers the result holds in the same order, where it is only another shape of it.
    """

    dtype: ir.DataType
    shape: Ints
    compute: Callable[[], np.ndarray]
    source: ir.TensorProtocol | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the computed array, types below a byte packed."""
        return -(-math.prod(self.shape) * self.dtype.bitwidth // 8)


Rule: TypeAlias = Callable[[ir.Node, Inputs], Outcome | None]


def constant_inputs(node: ir.Node) -> list[ir.TensorProtocol | None]:
    """The tensors of the inputs that are constant by themselves."""
    return [constant_tensor(value) for value in node.inputs]


def input_at(inputs: Inputs, index: int) -> ir.TensorProtocol | None:
    """The tensor at ``index``; None past the end too, where optional inputs are left out."""
    return inputs[index] if index < len(inputs) else None


def _shape(tensor: ir.TensorProtocol) -> Ints:
    return tuple(tensor.shape.numpy())


def _axes(node: ir.Node, inputs: Inputs, name: str) -> Ints | None:
    """Integers from input 1 (newer opsets) or attribute ``name`` (older); None if absent or not constant."""
    attribute = node.attributes.get(name)
    if attribute is not None:
        return tuple(attribute.as_ints())
    tensor = input_at(inputs, 1)
    return None if tensor is None else tuple(int(axis) for axis in tensor.numpy().reshape(-1))


def _view(tensor: ir.TensorProtocol, shape: Ints) -> Outcome | None:
    if math.prod(shape) != tensor.size or any(size < 0 for size in shape):
        return None
    return Outcome(tensor.dtype, shape, lambda: tensor.numpy().reshape(shape), tensor)


def _constant(node: ir.Node, inputs: Inputs) -> Outcome | None:
    tensor = constant_tensor(node.outputs[0])
    return None if tensor is None else _view(tensor, _shape(tensor))


def _identity(node: ir.Node, inputs: Inputs) -> Outcome | None:
    tensor = inputs[0]
    return None if tensor is None else _view(tensor, _shape(tensor))


def _reshape(node: ir.Node, inputs: Inputs) -> Outcome | None:
    """Reshape: 0 copies the input's dimension unless ``allowzero``, -1 takes what is left."""
    tensor, wanted = inputs[0], _axes(node, inputs, "shape")
    if tensor is None or wanted is None:
        return None
    old, shape = _shape(tensor), list(wanted)
    if not int_attribute(node, "allowzero", 0):
        if 0 in shape[len(old) :]:
            return None
        shape = [old[axis] if size == 0 else size for axis, size in enumerate(shape)]
    if -1 in shape:
        rest = math.prod(size for size in shape if size != -1)
        if rest == 0:
            return None
        shape[shape.index(-1)] = tensor.size // rest
    return _view(tensor, tuple(shape))


def _flatten(node: ir.Node, inputs: Inputs) -> Outcome | None:
    """Flatten: the dimensions before ``axis`` become the first, the others the second."""
    tensor = inputs[0]
    if tensor is None:
        return None
    old, axis = _shape(tensor), int_attribute(node, "axis", 1)
    axis += len(old) if axis < 0 else 0
    return _view(tensor, (math.prod(old[:axis]), math.prod(old[axis:])))


def _squeeze(node: ir.Node, inputs: Inputs) -> Outcome | None:
    """Squeeze: without axes every dimension of 1 goes."""
    tensor, axes = inputs[0], _axes(node, inputs, "axes")
    if tensor is None or (axes is None and len(node.inputs) > 1 and node.inputs[1] is not None):
        return None
    old = _shape(tensor)
    gone = {axis % len(old) for axis in axes} if axes is not None else {a for a, size in enumerate(old) if size == 1}
    return _view(tensor, tuple(size for axis, size in enumerate(old) if axis not in gone))


def _unsqueeze(node: ir.Node, inputs: Inputs) -> Outcome | None:
    """Unsqueeze: axes count in the result."""
    tensor, axes = inputs[0], _axes(node, inputs, "axes")
    if tensor is None or axes is None:
        return None
    rank = len(tensor.shape) + len(axes)
    new, rest = {axis % rank for axis in axes}, iter(_shape(tensor))
    return _view(tensor, tuple(1 if axis in new else next(rest) for axis in range(rank)))


def _transpose(node: ir.Node, inputs: Inputs) -> Outcome | None:
    """Transpose: without ``perm`` the dimensions are reversed."""
    tensor = inputs[0]
    if tensor is None:
        return None
    attribute = node.attributes.get("perm")
    perm = tuple(reversed(range(len(tensor.shape)))) if attribute is None else tuple(attribute.as_ints())
    shape = tuple(_shape(tensor)[axis] for axis in perm)
    return Outcome(tensor.dtype, shape, lambda: tensor.numpy().transpose(perm))


def _cast(node: ir.Node, inputs: Inputs) -> Outcome | None:
    """Cast: between floating-point types, from integers, and to bool; all are exact or round to nearest even."""
    tensor = inputs[0]
    target = ir.DataType(int_attribute(node, "to", 0))
    if tensor is None or not _casts_alike(tensor.dtype, target):
        return None

    def compute() -> np.ndarray:
        with np.errstate(over="ignore"):  # past the range lies infinity, as in ONNX
            return tensor.numpy().astype(target.numpy())

    return Outcome(target, _shape(tensor), compute)


_WHOLE = frozenset(
    {
        ir.DataType.BOOL,
        *(ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64),
        *(ir.DataType.UINT8, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64),
    }
)


def _casts_alike(source: ir.DataType, target: ir.DataType) -> bool:
    if (source, target) == (ir.DataType.DOUBLE, ir.DataType.BFLOAT16):
        return False  # rounds twice in one library and once in the other
    if source in FLOAT_TYPES:
        return target in FLOAT_TYPES
    return source in _WHOLE and (target in FLOAT_TYPES or target in _WHOLE)


def _arithmetic(operation: np.ufunc) -> Rule:
    def rule(node: ir.Node, inputs: Inputs) -> Outcome | None:
        left, right = inputs
        if left is None or right is None or left.dtype != right.dtype:
            return None
        dtype = left.dtype
        if dtype not in FLOAT_TYPES and (operation is np.divide or dtype not in _WHOLE):
            return None
        shape = np.broadcast_shapes(_shape(left), _shape(right))

        def compute() -> np.ndarray:
            with np.errstate(all="ignore"):
                return np.asarray(operation(left.numpy(), right.numpy()), dtype=dtype.numpy())

        return Outcome(dtype, shape, compute)

    return rule


def _concat(node: ir.Node, inputs: Inputs) -> Outcome | None:
    """Concat along ``axis``."""
    known = [tensor for tensor in inputs if tensor is not None]
    if len(known) < len(inputs) or not known:
        return None
    shape = list(_shape(known[0]))
    axis = int_attribute(node, "axis", 0) % len(shape)
    shape[axis] = sum(_shape(tensor)[axis] for tensor in known)
    return Outcome(known[0].dtype, tuple(shape), lambda: np.concatenate([t.numpy() for t in known], axis=axis))


def _constant_of_shape(node: ir.Node, inputs: Inputs) -> Outcome | None:
    """ConstantOfShape: zeros of float32 unless ``value`` holds one number of another kind."""
    tensor = inputs[0]
    if tensor is None:
        return None
    shape = tuple(int(size) for size in tensor.numpy().reshape(-1))
    if any(size < 0 for size in shape):
        return None
    attribute = node.attributes.get("value")
    if attribute is None:
        return Outcome(ir.DataType.FLOAT, shape, lambda: np.zeros(shape, dtype=np.float32))
    fill = attribute.as_tensor()
    if fill.dtype == ir.DataType.STRING:
        return None
    return Outcome(fill.dtype, shape, lambda: np.full(shape, fill.numpy().reshape(()), dtype=fill.dtype.numpy()))


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "Add": _arithmetic(np.add),
        "Cast": _cast,
        "Concat": _concat,
        "Constant": _constant,
        "ConstantOfShape": _constant_of_shape,
        "Div": _arithmetic(np.divide),
        "Flatten": _flatten,
        "Identity": _identity,
        "Mul": _arithmetic(np.multiply),
        "Reshape": _reshape,
        "Squeeze": _squeeze,
        "Sub": _arithmetic(np.subtract),
        "Transpose": _transpose,
        "Unsqueeze": _unsqueeze,
    }
)
