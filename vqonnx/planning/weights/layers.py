"""The layers of a model: nodes that multiply by a constant float matrix or look up in one; and why others are none."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from vqonnx.core.blocks import FloatArray
from vqonnx.core.plan import Skip
from vqonnx.core.weight_plan import Reader
from vqonnx.graph.facts import float_attribute, int_attribute, operator_key
from vqonnx.graph.functions import obstacles
from vqonnx.graph.walk import FLOAT_TYPES
from vqonnx.graph.weight_source import WeightSource, WeightSources, behind, rule_of
from vqonnx.planning.quantized import looks_up_scales
from vqonnx.planning.weights.last_products import last_products

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

_QUANTIZED = frozenset(
    {
        *("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"),
        *("com.microsoft::DynamicQuantizeMatMul", "com.microsoft::GatherBlockQuantized"),
        *("com.microsoft::MatMulBnb4", "com.microsoft::MatMulFpQ4", "com.microsoft::MatMulIntegerToFloat"),
        *("com.microsoft::MatMulNBits", "com.microsoft::QGemm", "com.microsoft::QMoE"),
    }
)
_MOVERS = frozenset({"Concat", "Expand", "Pad", "Slice", "Split", "Tile"})
"""What these give may be a weight, and then its reader says so."""


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A node that reads a constant weight W [K, N].

    Attributes:
        node: The node.
        reader: Whether it multiplies rows of K numbers by the weight or gathers columns of it.
        weight: The constant, as the node reads it.
        in_features: K.
        out_features: N.
        transposed: Whether the node reads [N, K] (a Gemm with transB, a table, a Conv), but for axes of size 1.
        alpha: Factor that the node multiplies the constant by; a part of W.
        is_last: Whether it is the MatMul or Gemm nearest to the outputs (``planning.weights.last_products``).
        in_body: Whether it stands in a body of If, Loop or Scan.
    """

    node: ir.Node
    reader: Reader
    weight: WeightSource
    in_features: int
    out_features: int
    transposed: bool = False
    alpha: float = 1.0
    is_last: bool = False
    in_body: bool = False

    @property
    def name(self) -> str:
        """The node's unique name."""
        return self.node.name or ""

    @property
    def dtype(self) -> ir.DataType:
        """Element type of the weight: FLOAT, FLOAT16 or BFLOAT16."""
        return self.weight.dtype

    @property
    def weight_index(self) -> int:
        """Which of the node's inputs the weight is."""
        return 0 if self.reader is Reader.LOOKUP else 1

    @property
    def input(self) -> ir.Value | None:
        """The activation that a product multiplies; None for a lookup."""
        return None if self.reader is Reader.LOOKUP else self.node.inputs[0]

    def read(self) -> FloatArray:
        """W [K, N] as the layer multiplies by it: a read-only map of the file wherever that needs no arithmetic."""
        stored, (k, n) = self.weight.read(), (self.in_features, self.out_features)
        matrix: FloatArray = stored.reshape(n, k).T if self.transposed else stored.reshape(k, n)
        if self.alpha == 1:
            return matrix
        return (matrix.astype(np.float32) * np.float32(self.alpha)).astype(matrix.dtype)

    def in_layout(self, weight: FloatArray) -> FloatArray:
        """The constant that, in the place of the node's own, makes the node compute with ``weight``.

        Args:
            weight: W' [K, N], of any floating-point type.
        """
        matrix = weight if self.alpha == 1 else weight.astype(np.float32) / np.float32(self.alpha)
        laid = (matrix.T if self.transposed else matrix).reshape(self.weight.shape)
        return np.ascontiguousarray(laid, dtype=self.dtype.numpy())


def find_layers(model: ir.Model, *, requantize: bool = False) -> tuple[list[Layer], list[Skip]]:
    """Find every MatMul, Gemm, 1x1 Conv and Gather with a constant float matrix, bodies of If, Loop and Scan included.

    No weight is read. What a user asks for is not looked at; see ``planning.weights.plan``.

    Args:
        model: A prepared model (``stages.weights.prepare``): unique names, ranks known as far as ONNX knows them.
        requantize: Whether a weight behind a DequantizeLinear is a float weight too.

    Returns:
        The layers, and with a reason each other product, Gather of a float constant and reader of a float constant
        with more than one axis; both in graph order, nodes of functions last.
    """
    finder = _Finder(requantize)
    layers: list[Layer] = []
    skips: list[Skip] = []
    for node in model.graph.all_nodes():
        found = finder.look_at(node)
        if isinstance(found, Layer):
            layers.append(replace(found, in_body=node.graph is not model.graph))
        elif found:
            skips.append(Skip(node.name or "", node.op_type, found))
    return _with_last(layers, model.graph), [*skips, *_in_functions(model, finder)]


def _with_last(layers: list[Layer], graph: ir.Graph) -> list[Layer]:
    last = set(last_products(graph, {layer.node for layer in layers if layer.node.op_type in ("Gemm", "MatMul")}))
    return [replace(layer, is_last=True) if layer.node in last else layer for layer in layers]


def _in_functions(model: ir.Model, finder: "_Finder") -> Iterator[Skip]:
    reasons = obstacles(model)
    for identifier, function in model.functions.items():
        why = reasons.get(identifier, "nothing calls it")
        for node in function.graph.all_nodes():
            if finder.look_at(node):
                reason = f"in function {function.domain}::{function.name}, which is not written out: {why}"
                yield Skip(node.name or "", node.op_type, reason)


@dataclass(frozen=True, slots=True)
class _Operator:
    """How an operator reads its weight.

    Attributes:
        weight: Index of that input.
        form: From the node and the constant to the layer, or to the reason why it is none.
    """

    weight: int
    form: Callable[[ir.Node, WeightSource], Layer | str]


class _Finder:
    def __init__(self, requantize: bool) -> None:
        self._requantize, self._sources = requantize, WeightSources()

    def look_at(self, node: ir.Node) -> Layer | str | None:
        """The layer that ``node`` is, why it is none, or None if it has no weight and could have none."""
        operator = _OPERATORS.get(operator_key(node))
        if operator is None:
            return self._other(node)
        if any(attribute.is_ref() for attribute in node.attributes.values()):
            return "an attribute of it is an argument of the function"
        value = node.inputs[operator.weight]
        source = self._sources.of(value)
        if node.op_type == "Gather" and (source is None or source.dtype not in FLOAT_TYPES):
            return None  # of shapes and activations, which are no tables
        if node.op_type == "Gather" and looks_up_scales(node):
            return "quantized already: it looks up scales"
        if source is None:
            return self._without_constant(node, value)
        return self._unusable(source) or operator.form(node, source)

    def _without_constant(self, node: ir.Node, value: ir.Value | None) -> str:
        if node.op_type != "Conv" and self._sources.of(node.inputs[0]) is not None:
            return "its constant operand is the left one"
        return f"its weight is {_origin(value)}"

    def _unusable(self, source: WeightSource) -> str:
        if source.dequantized and not self._requantize:
            return "its weight is quantized already; requantize=True takes it as a float weight"
        if source.dtype not in _FLOATS:
            return f"its weight is {source.dtype.name.lower()}, not float32, float16 or bfloat16"
        return "" if math.prod(source.shape) else "its weight has no elements"

    def _other(self, node: ir.Node) -> str | None:
        """Why a node of another operator keeps its weight, if it has one."""
        key = operator_key(node)
        if key in _QUANTIZED:
            return "quantized already"
        if key in _MOVERS or rule_of(node) is not None:
            return None
        sources = [source for value in node.inputs if (source := self._sources.of(value)) is not None]
        matrices = [source for source in sources if source.dtype in FLOAT_TYPES and _is_matrix(source)]
        if any(source.dequantized for source in matrices):
            return f"{key} has no packed form, and its weight is quantized already"
        return f"{key} has no packed form" if matrices else None


def _is_matrix(source: WeightSource) -> bool:
    """Whether more than one axis is longer than 1."""
    return sum(size > 1 for size in source.shape) > 1


def _origin(value: ir.Value | None) -> str:
    """Where a value comes from that a run may change."""
    while value is not None and (inner := behind(value)) is not None:
        value = inner
    if value is None:
        return "absent"
    node = value.producer()
    if node is not None:
        return f"computed at run time, by {operator_key(node)}"
    return "an input with a default, which a caller may change" if value.is_initializer() else "an input"


def _matmul(node: ir.Node, weight: WeightSource) -> Layer | str:
    """MatMul: a matrix, or one with leading axes of size 1 that add none to the result."""
    shape, rank = weight.shape, _rank(node.inputs[0])
    if len(shape) < 2:
        return "its weight is a vector"
    if math.prod(shape[:-2]) != 1:
        return "its weight is a batch of matrices"
    if rank == 1:
        return "its input has one axis"
    if len(shape) > 2 and (rank is None or rank < len(shape)):
        how = "may be" if rank is None else "is"
        return f"its weight has {len(shape)} axes, and the result {how} given axes of size 1 by it"
    k, n = shape[-2:]
    return Layer(node, Reader.PRODUCT, weight, k, n)


def _gemm(node: ir.Node, weight: WeightSource) -> Layer | str:
    """Gemm: alpha * A' * B' + beta * C, where B' is the weight or its transpose."""
    alpha, transposed = float_attribute(node, "alpha", 1.0), bool(int_attribute(node, "transB", 0))
    if len(weight.shape) != 2:
        return f"its weight has {len(weight.shape)} axes"
    if alpha == 0:
        return "alpha is 0, so its weight counts for nothing"
    k, n = reversed(weight.shape) if transposed else weight.shape
    return Layer(node, Reader.PRODUCT, weight, k, n, transposed, alpha)


def _conv(node: ir.Node, weight: WeightSource) -> Layer | str:
    """Conv: a product over channels where the kernel is one point that visits every place once."""
    n, k, *kernel = weight.shape
    strides, pads = node.attributes.get("strides"), node.attributes.get("pads")
    if math.prod(kernel) != 1:
        return f"its kernel is {'x'.join(map(str, kernel))}, not 1x1"
    if int_attribute(node, "group", 1) != 1:
        return "it has groups"
    if strides is not None and set(strides.as_ints()) != {1}:
        return "it has strides"
    if pads is not None and any(pads.as_ints()):
        return "it pads its input"
    return Layer(node, Reader.PRODUCT, weight, k, n, transposed=True)


def _gather(node: ir.Node, weight: WeightSource) -> Layer | str:
    """Gather of rows of a table [N, K]."""
    if len(weight.shape) != 2:
        return f"its table has {len(weight.shape)} axes"
    if int_attribute(node, "axis", 0) not in (0, -2):
        return "it gathers columns, not rows"
    n, k = weight.shape
    return Layer(node, Reader.LOOKUP, weight, k, n, transposed=True)


def _rank(value: ir.Value | None) -> int | None:
    return None if value is None or value.shape is None else len(value.shape)


_OPERATORS: Mapping[str, _Operator] = MappingProxyType(
    {
        "Conv": _Operator(1, _conv),
        "Gather": _Operator(0, _gather),
        "Gemm": _Operator(1, _gemm),
        "MatMul": _Operator(1, _matmul),
    }
)
LAYER_OPERATORS: tuple[str, ...] = tuple(_OPERATORS)
"""Operators that can be layers."""
