"""Nodes whose constant weights can become integer while their activations are quantized at run time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import onnx_ir as ir

from vqonnx.core.dynamic_plan import DynamicForm
from vqonnx.core.plan import Skip
from vqonnx.graph.facts import int_attribute, operator_key
from vqonnx.graph.weight_source import WeightSource, WeightSources
from vqonnx.planning.dynamic.row_weights import RowWeight
from vqonnx.planning.weights.layers import Layer, find_layers

ATTENTION = "com.microsoft::Attention"
EMBEDDING = "com.microsoft::EmbedLayerNormalization"
_LAYER_OPERATORS = ("Gather", "Gemm", "MatMul")
_FORMS = {"Gather": DynamicForm.LOOKUP, "Gemm": DynamicForm.PRODUCT, "MatMul": DynamicForm.PRODUCT}
_HALF_OR_SINGLE = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})
_SINGLE = frozenset({ir.DataType.FLOAT})


@dataclass(frozen=True, slots=True, eq=False)
class DynamicNode:
    """A node with constant weights.

    Attributes:
        node: The node.
        form: What it becomes.
        weights: Its weights, by input index.
        layer: The product or lookup that it is, None for other operators.
    """

    node: ir.Node
    form: DynamicForm
    weights: Mapping[int, RowWeight]
    layer: Layer | None = None

    @property
    def name(self) -> str:
        """The node's unique name."""
        return self.node.name or ""


def find_dynamic_nodes(model: ir.Model, *, bodies: bool = True) -> tuple[list[DynamicNode], list[Skip]]:
    """Find every node of ``DYNAMIC_OPERATORS`` with constant float weights; none is read.

    Args:
        model: A prepared model (``stages.weights.prepare``).
        bodies: Whether nodes in bodies of If, Loop and Scan count too.

    Returns:
        The nodes, and with a reason each other reader of a float weight; both in graph order.
    """
    layers, others = find_layers(model)
    of_node = {layer.node: layer for layer in layers}
    left = {skip.node: skip for skip in others}
    sources = WeightSources()
    found: list[DynamicNode] = []
    skips: list[Skip] = []
    for node in model.graph.all_nodes():
        skip = left.pop(node.name or "", None)
        result = _look_at(node, of_node.get(node), skip, sources)
        if isinstance(result, DynamicNode) and not bodies and node.graph is not model.graph:
            result = "in a body of If, Loop or Scan (EnableSubgraph is False)"
        if isinstance(result, DynamicNode):
            found.append(result)
        elif result:
            skips.append(Skip(node.name or "", node.op_type, result))
    return found, [*skips, *left.values()]  # what is left is in functions


def _look_at(node: ir.Node, layer: Layer | None, skip: Skip | None, sources: WeightSources) -> DynamicNode | str | None:
    operator = _OPERATORS.get(operator_key(node))
    if layer is None and operator_key(node) == "MatMul" and _has_batch(node, sources):
        operator = _BATCH
    if operator is None and layer is None:
        return None if skip is None else skip.reason.replace("has no packed form", "has no dynamic form")
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return "an attribute of it is an argument of the function"
    if layer is not None and operator is None:
        return _of_layer(layer)
    assert operator is not None
    return _of_operator(node, operator, sources)


def _of_layer(layer: Layer) -> DynamicNode | str:
    if layer.dtype not in _HALF_OR_SINGLE:
        return f"its weight is {layer.dtype.name.lower()}, for which ONNX Runtime's CPU has no kernel to compare with"
    return DynamicNode(layer.node, _FORMS[layer.node.op_type], {layer.weight_index: RowWeight.of_layer(layer)}, layer)


@dataclass(frozen=True, slots=True)
class _Operator:
    """How an operator reads its weights.

    Attributes:
        form: What it becomes.
        weights: From an input index to the rows of the constant there.
        refusal: Why a node cannot become that, empty if it can.
        dtypes: Element types that are possible.
        optional: Input indices where there may be none.
    """

    form: DynamicForm
    weights: Mapping[int, Callable[[WeightSource], RowWeight]]
    refusal: Callable[[ir.Node], str]
    dtypes: frozenset[ir.DataType] = _SINGLE
    optional: frozenset[int] = frozenset()


def _of_operator(node: ir.Node, operator: _Operator, sources: WeightSources) -> DynamicNode | str:
    weights = {}
    for index, rows in operator.weights.items():
        if index in operator.optional and node.inputs[index] is None:
            continue
        source = sources.of(node.inputs[index])
        reason = _unusable(source, operator.dtypes)
        if source is None or reason:
            return reason
        weights[index] = rows(source)
    return operator.refusal(node) or DynamicNode(node, operator.form, weights)


def _unusable(source: WeightSource | None, dtypes: frozenset[ir.DataType]) -> str:
    if source is None:
        return "a weight of it is computed at run time"
    if source.dequantized:
        return "its weight is quantized already"
    if source.dtype not in dtypes:
        return f"its weight is {source.dtype.name.lower()}, which the integer operator does not take"
    return "" if all(source.shape) else "its weight has no elements"


def _has_batch(node: ir.Node, sources: WeightSources) -> bool:
    source = sources.of(node.inputs[1])
    return source is not None and len(source.shape) > 2


def _batch(node: ir.Node) -> str:
    rank = None if node.inputs[0] is None or node.inputs[0].shape is None else len(node.inputs[0].shape)
    return "" if rank is not None and rank > 1 else "its input has one axis, or it is not known how many"


def _conv(node: ir.Node) -> str:
    weight = node.inputs[1]
    rank = None if weight is None or weight.shape is None else len(weight.shape)
    return "the rank of its weight is not known" if rank is None else ""


def _gates(node: ir.Node) -> str:
    if int_attribute(node, "layout", 0):
        return "its layout is batch first, which no integer operator has"
    if node.attributes.get("output_sequence") is not None:
        return "it has output_sequence, which went with opset 7"
    return ""


def _any(node: ir.Node) -> str:
    """DequantizeLinear suits every node."""
    del node
    return ""


_ZERO_ATTRIBUTES = ("do_rotary", "past_present_share_buffer", "rotary_embedding_dim")
_ATTENTION_INPUTS = 4
_MASK_RANKS = (1, 2)


def _attention(node: ir.Node) -> str:
    """QAttention (ONNX Runtime 1.24 and 1.31) has a past that this does not write, and no additive bias."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return "it has no bias, without which ONNX Runtime's Attention ends the process"
    if any(value is not None for value in node.inputs[_ATTENTION_INPUTS:]):
        return "it has a past or an additive bias, which QAttention has not here"
    if len(node.outputs) > 1:
        return "it gives its present state, which QAttention does not without a past"
    if any(int_attribute(node, name, 0) for name in _ZERO_ATTRIBUTES) or "qkv_hidden_sizes" in node.attributes:
        return "it has attributes that QAttention has not"
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    odd = mask is not None and (mask.shape is None or len(mask.shape) not in _MASK_RANKS)
    return "its mask has neither one axis nor two" if odd else ""


_SEGMENTS = (1, 4)
_POSITIONS = 8


def _embedding(node: ir.Node) -> str:
    """QEmbedLayerNormalization (ONNX Runtime 1.24 and 1.31) counts positions itself."""
    if len(node.inputs) > _POSITIONS and node.inputs[_POSITIONS] is not None:
        return "it is given positions, for which QEmbedLayerNormalization has no input"
    if len(node.outputs) > 2 and node.outputs[2].name:
        return "it gives the sum of its rows, which QEmbedLayerNormalization does not"
    if len({node.inputs[index] is None for index in _SEGMENTS}) > 1:
        return "it has a table of segments without their numbers, or numbers without a table"
    return ""


def _leading(axes: int) -> Callable[[WeightSource], RowWeight]:
    return lambda source: RowWeight.of_leading_axes(source, axes)


_RECURRENT = {1: _leading(2), 2: _leading(2)}
_EMBEDDED = {**dict.fromkeys((2, 3, 4), _leading(1)), **dict.fromkeys((5, 6), _leading(0))}
"""Tables of words, positions and segments, gamma and beta."""
_OPERATORS: Mapping[str, _Operator] = MappingProxyType(
    {
        "Conv": _Operator(DynamicForm.CONV, {1: _leading(1)}, _conv, _HALF_OR_SINGLE),
        "LSTM": _Operator(DynamicForm.LSTM, _RECURRENT, _gates),
        "GRU": _Operator(DynamicForm.DEQUANTIZED, _RECURRENT, _any),
        "RNN": _Operator(DynamicForm.DEQUANTIZED, _RECURRENT, _any),
        ATTENTION: _Operator(DynamicForm.ATTENTION, {1: RowWeight.of_columns}, _attention),
        EMBEDDING: _Operator(DynamicForm.EMBEDDING, _EMBEDDED, _embedding, optional=frozenset({4})),
    }
)
_BATCH = _Operator(DynamicForm.BATCH, {1: RowWeight.of_batch}, _batch, _HALF_OR_SINGLE)
DYNAMIC_OPERATORS: tuple[str, ...] = (
    "Attention", "Conv", "EmbedLayerNormalization", "GRU", "Gather", "Gemm", "LSTM", "MatMul", "RNN",
)  # fmt: skip
"""Operators that have a dynamic form; Attention and EmbedLayerNormalization are com.microsoft's."""
DEFAULT_OPERATORS: tuple[str, ...] = tuple(name for name in DYNAMIC_OPERATORS if name != "Conv")
"""Without Conv: ConvInteger has no fused kernel, and most convolutions are slower with it than in float."""
