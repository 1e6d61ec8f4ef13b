"""Nodes that scale and shift each channel by constants: BatchNormalization, and Mul, Div, Add, Sub with one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from vqonnx.graph.facts import float_attribute, int_attribute
from vqonnx.graph.walk import constant_tensor
from vqonnx.transforms.weights import F64, float_constant


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """y = scale * x + shift for each channel; both of shape [channels], float64 and finite."""

    scale: F64
    shift: F64


@dataclass(frozen=True, slots=True)
class Layout:
    """What is known of the tensor that is scaled: its rank, its channel axis and the channels along it."""

    rank: int
    axis: int
    channels: int


Reader = Callable[[ir.Node, int, Layout], Affine | None]
"""From a node, the index of its input that is not constant, and that input's layout."""


def batch_norm(node: ir.Node, index: int, layout: Layout) -> Affine | None:
    """A BatchNormalization in inference form: gamma * (x - mean) / sqrt(variance + epsilon) + beta.

    Opset 7 to 13 train when more than one output is asked for, opset 14 and later by ``training_mode``;
    ``spatial=0`` (opset 7 and 8) has statistics for each position. All these give None, and so does a channel
    whose variance + epsilon is not positive. Axis 1 holds the channels.
    """
    if node.op_type != "BatchNormalization" or node.domain or index != 0 or layout.axis != 1:
        return None
    if _trains(node) or not int_attribute(node, "spatial", 1):
        return None
    parameters = [float_constant(value) for value in node.inputs[1:5]]
    known = [array for array in parameters if array is not None and array.shape == (layout.channels,)]
    if len(known) != 4:
        return None
    gamma, beta, mean, variance = known
    spread = variance + float_attribute(node, "epsilon", 1e-5)
    if not bool((spread > 0).all()):
        return None
    scale = gamma / np.sqrt(spread)
    return _finite(scale, beta - scale * mean)


def _trains(node: ir.Node) -> bool:
    # Before opset 7 is_test said so, and its default was to train; such models were raised before.
    by_attribute = int_attribute(node, "training_mode", 0) or int_attribute(node, "is_test", 1) == 0
    return bool(by_attribute) or any(output.name for output in node.outputs[1:])


def arithmetic(node: ir.Node, index: int, layout: Layout) -> Affine | None:
    """Mul, Div, Add or Sub with one constant a channel, or one for all, as the other operand.

    The constant must broadcast into the tensor along no other axis, and must not widen it. A constant divided
    by the tensor is not affine.
    """
    form = _FORMS.get((node.op_type, index))
    if form is None or node.domain or len(node.inputs) != 2:
        return None
    tensor = constant_tensor(node.inputs[1 - index])
    if tensor is None or tensor.size > layout.channels:  # a large one is not read only to be refused
        return None
    numbers = float_constant(node.inputs[1 - index])
    vector = None if numbers is None else per_channel(numbers, layout)
    if vector is None:
        return None
    with np.errstate(divide="ignore"):  # by zero gives infinity, which is refused
        scale, shift = form(vector)
    return _finite(np.broadcast_to(scale, vector.shape), np.broadcast_to(shift, vector.shape))


_ONE, _ZERO = np.array(1.0), np.array(0.0)
_FORMS: Mapping[tuple[str, int], Callable[[F64], tuple[F64, F64]]] = MappingProxyType(
    {
        ("Add", 0): lambda c: (_ONE, c),
        ("Add", 1): lambda c: (_ONE, c),
        ("Mul", 0): lambda c: (c, _ZERO),
        ("Mul", 1): lambda c: (c, _ZERO),
        ("Sub", 0): lambda c: (_ONE, -c),
        ("Sub", 1): lambda c: (-_ONE, c),
        ("Div", 0): lambda c: (1 / c, _ZERO),
    }
)
"""Scale and shift by operator and by the index of the tensor among its inputs, from the constant c."""


def per_channel(numbers: F64, layout: Layout) -> F64 | None:
    """``numbers`` as a vector [channels] where they broadcast so to a tensor of ``layout``; else None."""
    if numbers.ndim > layout.rank:
        return None
    shape = (1,) * (layout.rank - numbers.ndim) + numbers.shape
    others = shape[: layout.axis] + shape[layout.axis + 1 :]
    if any(size != 1 for size in others) or shape[layout.axis] not in (1, layout.channels):
        return None
    return np.array(np.broadcast_to(numbers.reshape(-1), (layout.channels,)))


def _finite(scale: F64, shift: F64) -> Affine | None:
    finite = bool(np.isfinite(scale).all() and np.isfinite(shift).all())
    return Affine(scale, shift) if finite else None
