"""A factor for each feature of an activation moves into the constants that make it: AWQ's division by channel scales.

Where x [.., K] is y * gamma + beta, x / t is y * (gamma / t) + (beta / t); so a norm, a product with a vector or a
float linear layer takes the factors 1 / t without a new node, and ReLU and LeakyReLU let positive ones through. A
product of two activations, such as an MLP's ``up * act(gate)``, takes them in either. In a packed linear layer the
scales of an output channel's blocks take its factor, and the codes stay as they are: quantized again, the scaled weight
would have the same.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vqonnx.graph.facts import int_attribute, operator_key
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import FLOAT_TYPES, constant_tensor
from vqonnx.transforms.weights import F64, float_constant, set_constant, stored

_NORMS = {
    "LayerNormalization": (1, 2),
    "RMSNormalization": (1,),
    "SimplifiedLayerNormalization": (1,),
    "com.microsoft::SimplifiedLayerNormalization": (1,),
    "com.microsoft::SkipLayerNormalization": (2, 3),
    "com.microsoft::SkipSimplifiedLayerNormalization": (2,),
}
"""Inputs by which a norm scales and shifts its first output, along the last axis."""

_HOMOGENEOUS = frozenset({"Identity", "Cast", "Dropout", "Relu", "LeakyRelu"})
"""f(c x) = c f(x) for c > 0."""


@dataclass(frozen=True, slots=True)
class _Operand:
    """A constant input that takes the factors.

    Attributes:
        node: Its node.
        index: Which input.
        first_axis: Whether the features are its first axis instead of the last (a Gemm with transB).
        divisor: Whether it is divided by the factors.
    """

    node: ir.Node
    index: int
    first_axis: bool = False
    divisor: bool = False

    def scaled(self, factors: F64) -> np.ndarray | None:
        """The constant for an activation that is ``factors`` times as large; None where its type cannot hold it."""
        value = self.node.inputs[self.index]
        numbers = float_constant(value)
        if numbers is None or value is None or value.dtype is None:  # pragma: no cover - foldable looked
            raise TypeError(f"input {self.index} of {self.node.name!r} is no constant of a known type")
        along = factors[:, np.newaxis] if self.first_axis else factors
        return stored(numbers / along if self.divisor else numbers * along, value.dtype)


@dataclass(frozen=True, slots=True)
class Fold:
    """Where factors for the features of an activation go.

    Attributes:
        operands: Constants of the graph.
        packed: Names of planned nodes whose packed output channels take the factors; see
            ``stages.weights.solve.scale_outputs``.
    """

    operands: tuple[_Operand, ...]
    packed: tuple[str, ...] = ()

    def apply(self, factors: F64, names: NameAllocator) -> bool:
        """Make the activation ``factors`` times as large: its constants change, shared ones after they are copied.

        Args:
            factors: [K], > 0.
            names: Where the names of copies come from.

        Returns:
            False, and nothing is changed, where a number would not be finite in its type.
        """
        changes = [(operand, operand.scaled(factors)) for operand in self.operands]
        if any(numbers is None for _, numbers in changes):
            return False
        for operand, numbers in changes:
            if numbers is not None:
                set_constant(operand.node, operand.index, numbers, names, f"{operand.node.name}_scaled")
        return True


def foldable(
    value: ir.Value,
    readers: Collection[ir.Node],
    features: int,
    *,
    planned: Collection[str] = (),
    scalable: Collection[str] = (),
) -> Fold | None:
    """Where factors for the features of an activation can go without any other result changing; None if nowhere.

    Args:
        value: The activation, [.., K].
        readers: The layers that undo the factors; nothing else may read it.
        features: K.
        planned: Names of nodes whose weights will be packed, and so do not take factors as they are.
        scalable: Those of them whose packed output channels may: no other node reads that weight.
    """
    if value.is_graph_output() or not all(_is_undone(*use, readers) for use in value.uses()):
        return None
    return _Search(features, frozenset(planned), frozenset(scalable)).into(value, spans=True)


def _is_undone(reader: ir.Node, index: int, readers: Collection[ir.Node]) -> bool:
    """Whether this read is a layer's that multiplies along the last axis."""
    plain = operator_key(reader) == "MatMul" or (
        operator_key(reader) == "Gemm" and not int_attribute(reader, "transA", 0)
    )
    return plain and index == 0 and reader in readers


@dataclass(frozen=True, slots=True)
class _Search:
    """Looks where factors can go, from an activation against the flow."""

    features: int
    planned: frozenset[str]
    scalable: frozenset[str]

    def into(self, value: ir.Value, *, spans: bool) -> Fold | None:
        """Into what makes ``value``; ``spans`` tells that its last axis is known to hold all features."""
        node = value.producer()
        if node is None or value is not node.outputs[0]:
            return None
        key = operator_key(node)
        if key in _NORMS:
            return self._constants(node, _NORMS[key], spans)
        if key in _HOMOGENEOUS:
            return self._before(node, 0) if _keeps_numbers(node) else None
        search = _SEARCHES.get(key)
        return None if search is None else search(self, node, spans)

    def _before(self, node: ir.Node, index: int) -> Fold | None:
        """Into what makes an input of ``node``, which alone reads it."""
        value = node.inputs[index]
        if value is None or value.is_graph_output() or len(value.uses()) != 1:
            return None
        known = value.shape is not None and len(value.shape) > 0 and value.shape[-1] == self.features
        return self.into(value, spans=known)

    def _constants(
        self, node: ir.Node, indices: Iterable[int], spans: bool, *, first_axis: bool = False
    ) -> Fold | None:
        """Into all those of the inputs ``indices`` that are there."""
        operands = tuple(_Operand(node, index, first_axis) for index in indices if _input(node, index) is not None)
        return Fold(operands) if all(self._fits(operand, spans) for operand in operands) else None

    def _fits(self, operand: _Operand, spans: bool) -> bool:
        """Whether it is a constant with a number for each feature, or with one for all where that may become K."""
        tensor = constant_tensor(operand.node.inputs[operand.index])
        if tensor is None or tensor.dtype not in FLOAT_TYPES:
            return False
        shape = tuple(tensor.shape.numpy())
        along = shape[:1] if operand.first_axis else shape[-1:]
        return along == (self.features,) or (spans and not operand.first_axis and along in ((), (1,)))

    def _product(self, node: ir.Node, spans: bool) -> Fold | None:
        """Into one factor of a Mul: a constant if there is one."""
        for index in (0, 1):
            if constant_tensor(node.inputs[index]) is not None:
                return self._constants(node, (index,), spans)
        return self._before(node, 0) or self._before(node, 1)

    def _quotient(self, node: ir.Node, spans: bool) -> Fold | None:
        """Into the divisor of a Div, or what is divided."""
        divisor = _Operand(node, 1, divisor=True)
        return Fold((divisor,)) if self._fits(divisor, spans) else self._before(node, 0)

    def _sum(self, node: ir.Node, spans: bool) -> Fold | None:
        """Into both terms of an Add or Sub."""
        terms = [
            self._before(node, index)
            if constant_tensor(node.inputs[index]) is None
            else self._constants(node, (index,), spans)
            for index in (0, 1)
        ]
        return _joined(terms)

    def _linear(self, node: ir.Node, spans: bool) -> Fold | None:
        """Into the output channels of a MatMul or Gemm with a constant weight, and its bias."""
        gemm = node.op_type == "Gemm"
        bias = self._constants(node, (2,), spans) if gemm else Fold(())
        if node.name in self.planned:
            weight = Fold((), packed=(node.name,)) if node.name in self.scalable else None
        else:
            weight = self._weight(_Operand(node, 1, first_axis=gemm and bool(int_attribute(node, "transB", 0))))
        return _joined([weight, bias])

    def _weight(self, operand: _Operand) -> Fold | None:
        tensor = constant_tensor(operand.node.inputs[operand.index])
        matrix = tensor is not None and len(tensor.shape) >= 2  # a vector has no output channels
        return Fold((operand,)) if matrix and self._fits(operand, spans=False) else None


_SEARCHES: Mapping[str, Callable[[_Search, ir.Node, bool], Fold | None]] = {
    "Add": _Search._sum,
    "Div": _Search._quotient,
    "Gemm": _Search._linear,
    "MatMul": _Search._linear,
    "Mul": _Search._product,
    "Sub": _Search._sum,
}


def _joined(folds: Iterable[Fold | None]) -> Fold | None:
    """All of them, or None if one is missing."""
    parts = list(folds)
    whole = [part for part in parts if part is not None]
    if len(whole) < len(parts):
        return None
    return Fold(
        tuple(operand for part in whole for operand in part.operands),
        tuple(name for part in whole for name in part.packed),
    )


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _keeps_numbers(node: ir.Node) -> bool:
    """Whether a Cast does not make integers, and a Dropout drops nothing: its third input would let it train."""
    if node.op_type == "Cast":
        return ir.DataType(int_attribute(node, "to", 0)) in FLOAT_TYPES
    return node.op_type != "Dropout" or _input(node, 2) is None
