"""What of a model is quantized already: integer operators, packed weights, and nodes between pairs."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeGuard

import onnx_ir as ir

from vqonnx.core.custom_ops import DEQUANTIZE, DOMAIN, QUANTIZE, custom_op, rounds
from vqonnx.core.target import Kernel, OpSupport
from vqonnx.errors import UnsupportedModelError
from vqonnx.graph.facts import operator_key
from vqonnx.graph.walk import constant_tensor, is_float, nodes, only_reader
from vqonnx.planning.factors import is_factor
from vqonnx.planning.fused import is_fused

_OPERATORS = frozenset(
    {
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
        *("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"),
    }
)
_CONTRIB = frozenset(
    {
        *("DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "GatherBlockQuantized"),
        *("MatMulBnb4", "MatMulFpQ4", "MatMulInteger16", "MatMulIntegerToFloat", "MatMulNBits", "MulInteger"),
        *("QAttention", "QEmbedLayerNormalization", "QGemm", "QMoE", "QOrderedMatMul"),
    }
)
"""Of com.microsoft, besides those called QLinear… (ONNX Runtime, ContribOperators.md)."""
_DONE = "already quantized"
_NAMED = 5


def quantized_nodes(model: ir.Model) -> list[ir.Node]:
    """The nodes of a model, bodies and functions included, that read, make or convert codes."""
    return [node for node in nodes(model) if _is_quantized(node)]


def _is_quantized(node: ir.Node) -> bool:
    if node.domain == "com.microsoft":
        return node.op_type in _CONTRIB or node.op_type.startswith("QLinear")
    if node.domain in ("", "ai.onnx"):
        return node.op_type in _OPERATORS
    return node.domain == DOMAIN or custom_op(node.domain, node.op_type) is not None


def refuse_quantized(found: Iterable[ir.Node]) -> None:
    """Raise if there are such nodes.

    Raises:
        UnsupportedModelError: There are; it counts them by operator.
    """
    counts = Counter(node.op_type for node in found)
    if counts:
        told = ", ".join(f"{count} x {op_type}" for op_type, count in counts.most_common(_NAMED))
        raise UnsupportedModelError(
            f"the model is quantized already: it has {told}{' …' * (len(counts) > _NAMED)}. Give the float model, or "
            "already_quantized='keep' to quantize what is left."
        )


def quantized_already(among: Iterable[ir.Node], ops: Mapping[str, OpSupport], complete: bool = False) -> dict[str, str]:
    """Why nodes need nothing more, by name: they are quantized operators, or stand between pairs.

    Args:
        among: Nodes of a prepared model, each graph's in its order.
        ops: What the target runs in integers, by operator.
        complete: Whether nodes with a stored weight and a float input or output are left to be completed.
    """
    found: dict[str, str] = {}
    for node in among:
        support = ops.get(operator_key(node))
        if _is_quantized(node) or _follows_quantized(node, ops, found):
            reason = _DONE
        else:
            reason = "" if support is None else _by_pairs(node, support, ops, complete)
        if reason:
            found[node.name or ""] = reason
    return found


def _follows_quantized(node: ir.Node, ops: Mapping[str, OpSupport], found: Mapping[str, str]) -> bool:
    """Whether the device computes the node with the one before it, which is between pairs up to here."""
    makers = [value.producer() for value in node.inputs if value is not None]
    done = [maker for maker in makers if maker is not None and found.get(maker.name or "") == _DONE]
    alone = [maker for maker in done if only_reader(maker.outputs[0]) is not None]
    return any(_belongs_to(node, maker, ops) for maker in alone) and _is_taken(node, ops)


def _belongs_to(node: ir.Node, before: ir.Node, ops: Mapping[str, OpSupport]) -> bool:
    support, first = ops.get(operator_key(node)), node.inputs[0] if node.inputs else None
    if first is None or first.producer() is not before:
        return _adds_bias(node, before)
    fused = support is not None and support.kernel is Kernel.FUSED and is_fused(node, support, before)
    return fused or is_factor(node) or _adds_bias(node, before)


def _adds_bias(node: ir.Node, before: ir.Node) -> bool:
    """Whether an Add gives a MatMul its bias."""
    if node.op_type != "Add" or node.domain or before.op_type != "MatMul":
        return False
    others = [value for value in node.inputs if value is not None and value is not before.outputs[0]]
    return len(others) == 1 and (_is_constant(others[0]) or _is_stored(others[0]))


def _is_taken(node: ir.Node, ops: Mapping[str, OpSupport]) -> bool:
    """Whether QuantizeLinear alone reads what a node computes, or what the device computes with it does."""
    if any(output.is_graph_output() for output in node.outputs):
        return False
    readers = [reader for output in node.outputs for reader, _ in output.uses()]
    if len(readers) == 1 and _belongs_to(readers[0], node, ops):
        return _is_taken(readers[0], ops)
    return bool(readers) and all(map(_quantizes, readers))


def _by_pairs(node: ir.Node, support: OpSupport, ops: Mapping[str, OpSupport], complete: bool) -> str:
    """Why a float operator is quantized: DequantizeLinear feeds it and, where it has to, QuantizeLinear reads it.

    An operator that quantizes and dequantizes at once is both.
    """
    weight = node.inputs[support.weight] if support.weight is not None and support.weight < len(node.inputs) else None
    floats = [value for value in node.inputs if value is not None and is_float(value) and value is not weight]
    sources = [value for value in floats if not (_is_constant(value) or _is_stored(value))]
    given = bool(sources) and all(map(is_dequantized, sources))
    if complete and not (given and _is_taken(node, ops)):
        return ""
    if weight is not None and _is_stored(weight):
        return _DONE if given else "its weight is quantized already, and its input is not"
    if weight is not None and _is_constant(weight):
        return ""
    if not given or (weight is not None and is_float(weight) and not is_dequantized(weight)):
        return ""
    return _DONE if _is_taken(node, ops) or support.float_output else ""


def is_dequantized(value: ir.Value) -> bool:
    """Whether a DequantizeLinear, or an operator that rounds, makes the value of what changes between runs."""
    maker = _dequantizer(value)
    return maker is not None and not _is_constant(_uncast(maker.inputs[0]))


def looks_up_scales(node: ir.Node) -> bool:
    """Whether a lookup gives nothing but factors of dequantized codes, as in a table with one scale a row."""
    uses = [use for output in node.outputs for use in output.uses()]
    factors = [reader.inputs[1 - index] for reader, index in uses if reader.op_type == "Mul" and not reader.domain]
    return bool(uses) and len(factors) == len(uses) and all(v is not None and is_dequantized(v) for v in factors)


def _is_stored(value: ir.Value) -> bool:
    """Whether a DequantizeLinear makes the value of stored codes."""
    maker = _dequantizer(value)
    return maker is not None and _is_constant(_uncast(maker.inputs[0]))


def _dequantizer(value: ir.Value) -> ir.Node | None:
    """What dequantizes or rounds a value; operators that round float32 alone have Casts around them in float16."""
    maker = value.producer()
    if maker is not None and maker.op_type in ("DequantizeLinear", DEQUANTIZE.name, DEQUANTIZE.old_name):
        return maker
    inner = _uncast(value)
    maker = inner.producer() if inner is not None else None
    return maker if maker is not None and _rounds(maker) else None


def _uncast(value: ir.Value | None) -> ir.Value | None:
    """The float value that a Cast gives another float type."""
    maker = value.producer() if value is not None else None
    if maker is None or maker.op_type != "Cast" or maker.domain or not (is_float(value) and is_float(maker.inputs[0])):
        return value
    return maker.inputs[0]


def _quantizes(node: ir.Node) -> bool:
    if node.op_type == "Cast" and not node.domain:
        return bool(node.outputs[0].uses()) and all(_rounds(reader) for reader, _ in node.outputs[0].uses())
    return node.op_type in ("QuantizeLinear", QUANTIZE.name, QUANTIZE.old_name) or _rounds(node)


def _rounds(node: ir.Node) -> bool:
    return rounds(node.domain, node.op_type)


def _is_constant(value: ir.Value | None) -> bool:
    return constant_tensor(value) is not None


def _is_computed(value: ir.Value | None) -> TypeGuard[ir.Value]:
    return value is not None and not (is_dequantized(value) or _is_constant(value))


def scales_of_pairs(model: ir.Model) -> Iterator[tuple[ir.Value, ir.Node]]:
    """Values of the main graph with a pair beside them, and the node of it that says in which codes they are.

    That is the DequantizeLinear that makes a value or, where a float node makes it, the QuantizeLinear that reads it.
    """
    for node in model.graph:
        if node.op_type == "DequantizeLinear" and is_dequantized(node.outputs[0]):
            yield node.outputs[0], node
        elif node.op_type == "QuantizeLinear" and _is_computed(source := node.inputs[0]):
            yield source, node
