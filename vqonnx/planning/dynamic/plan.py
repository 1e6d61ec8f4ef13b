"""The plan of dynamic quantization: which weights become integer, how, and why the rest does not."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from vqonnx.core.dynamic_plan import DynamicForm, DynamicNodePlan, DynamicPlan, DynamicWeight
from vqonnx.core.granularity import PerAxis, PerTensor
from vqonnx.core.plan import Skip
from vqonnx.core.qtype import QTYPES
from vqonnx.core.spec import QuantSpec
from vqonnx.errors import OptionError, nearest
from vqonnx.graph.names import NameAllocator
from vqonnx.planning.dynamic.nodes import DEFAULT_OPERATORS, DYNAMIC_OPERATORS, DynamicNode
from vqonnx.planning.dynamic.row_weights import RowWeight
from vqonnx.planning.rules import Selection
from vqonnx.planning.selection import rejections
from vqonnx.planning.weights.tied import tie

_CONV_REASON = (
    "Conv is not in op_types_to_quantize: ConvInteger is slower than Conv on most shapes (ONNX Runtime's CPU); name it "
    "there to save space, or quantize it statically"
)


_ONE_ZERO_POINT = {DynamicForm.BATCH, DynamicForm.CONV, DynamicForm.LOOKUP, DynamicForm.LSTM}
"""Forms that take one zero point for all channels: MatMulInteger of a batch, ConvInteger, a lookup's DequantizeLinear,
DynamicQuantizeLSTM."""
_NO_PRODUCT = {DynamicForm.DEQUANTIZED, DynamicForm.EMBEDDING, DynamicForm.LOOKUP}
"""Forms without integer products, which could saturate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicRules:
    """What shapes a dynamic plan besides the graph.

    Attributes:
        target: Name of the target.
        weight: Spec of weights, per tensor.
        per_channel: One scale an output channel.
        selection: Which nodes may be quantized.
        bodies: Whether nodes in bodies of If, Loop and Scan are quantized.
        kernels: Types of weights that the target has kernels for, by form.
    """

    target: str
    weight: QuantSpec
    per_channel: bool = True
    selection: Selection = Selection()  # noqa: RUF009 - frozen
    bodies: bool = True
    kernels: Mapping[DynamicForm, tuple[str, ...]]

    def spec_for(self, forms: Iterable[DynamicForm]) -> QuantSpec:
        """The spec of a weight as rows [C, L] that nodes of these forms read."""
        spec, read_as = self.weight, set(forms)
        types = next((self.kernels[form] for form in read_as if spec.qtype.name not in self.kernels[form]), None)
        if types is not None:
            qtype = QTYPES[types[0]]
            reduced = spec.reduce_range and qtype.signed
            spec = replace(spec, qtype=qtype, symmetric=True, reduce_range=reduced)
        if read_as & _ONE_ZERO_POINT and self.per_channel:
            spec = replace(spec, symmetric=True)
        if read_as <= _NO_PRODUCT:
            spec = replace(spec, reduce_range=False)
        per_channel = self.per_channel and DynamicForm.EMBEDDING not in read_as
        return replace(spec, granularity=PerAxis(0) if per_channel else PerTensor())


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """A plan with what its weights are read from.

    Attributes:
        plan: The plan.
        nodes: Its nodes, by name, as they are in the float model.
        sources: Its weights, by key.
    """

    plan: DynamicPlan
    nodes: Mapping[str, DynamicNode]
    sources: Mapping[str, RowWeight]


def plan_dynamic(
    nodes: Sequence[DynamicNode], skips: Iterable[Skip], rules: DynamicRules, known: Iterable[str] = ()
) -> Planned:
    """Decide which weights become integer.

    Products and lookups with one weight share its codes, also where it is stored twice or transposed.

    Args:
        nodes: From ``find_dynamic_nodes``, in graph order.
        skips: From ``find_dynamic_nodes``.
        rules: What the user and the target ask for.
        known: Further names of nodes that patterns may name without effect.

    Raises:
        OptionError: A pattern matches nothing, or an operator has no dynamic form.
    """
    found = tuple(skips)
    rejected = _rejected(nodes, rules.selection, {*known, *(skip.node for skip in found)})
    nodes = [_with_kernel(node, rules) for node in nodes]
    rejected = _without_kernel(nodes, rules) | rejected
    wanted = [node for node in nodes if node.name not in rejected]
    weights, sources = _weights(wanted, rules)
    keys = {(reader, index): key for key, group in weights.items() for reader, index in group[1]}
    plan = DynamicPlan(
        target=rules.target,
        weights={key: weight for key, (weight, _) in weights.items()},
        nodes={
            node.name: DynamicNodePlan(
                node=node.name,
                op_type=node.node.op_type,
                form=node.form,
                weights={index: keys[node.name, index] for index in node.weights},
            )
            for node in wanted
        },
        skips=(
            *found,
            *(Skip(n.name, n.node.op_type, rejected[n.name]) for n in nodes if n.name in rejected),
        ),
    )
    return Planned(plan, {node.name: node for node in wanted}, sources)


def _rejected(nodes: Sequence[DynamicNode], selection: Selection, known: set[str]) -> dict[str, str]:
    for op_type in selection.op_types:
        if op_type not in DYNAMIC_OPERATORS:
            raise OptionError(
                f"op_types_to_quantize: {op_type!r} has no dynamic form{nearest(op_type, DYNAMIC_OPERATORS)}; "
                f"there are {', '.join(DYNAMIC_OPERATORS)}.",
                option="op_types_to_quantize",
            )
    by_default = not selection.op_types
    complete = replace(selection, op_types=selection.op_types or DEFAULT_OPERATORS)
    reasons = rejections([node.node for node in nodes], complete, known, DYNAMIC_OPERATORS)
    if not by_default:
        return reasons
    left = {node.name for node in nodes if node.form is DynamicForm.CONV}
    plain = "Conv is not in op_types_to_quantize"
    return {name: _CONV_REASON if name in left and why == plain else why for name, why in reasons.items()}


def _with_kernel(node: DynamicNode, rules: DynamicRules) -> DynamicNode:
    """An LSTM for whose integer operator there is no kernel keeps its own, and dequantizes its weights."""
    absent = node.form is DynamicForm.LSTM and node.form not in rules.kernels
    return replace(node, form=DynamicForm.DEQUANTIZED) if absent else node


def _without_kernel(nodes: Iterable[DynamicNode], rules: DynamicRules) -> dict[str, str]:
    return {
        node.name: f"target {rules.target} has no kernel for {node.form.value}"
        for node in nodes
        if node.form not in rules.kernels
    }


_Readers = list[tuple[str, int]]


def _weights(
    nodes: Sequence[DynamicNode], rules: DynamicRules
) -> tuple[dict[str, tuple[DynamicWeight, _Readers]], dict[str, RowWeight]]:
    """Weights with who reads them, and what they are read from, by key in the order of first readers."""
    order = {node.name: position for position, node in enumerate(nodes)}
    names = NameAllocator()
    weights: dict[str, tuple[DynamicWeight, _Readers]] = {}
    sources: dict[str, RowWeight] = {}
    for members in sorted(_groups(nodes), key=lambda group: order[group[0][0].name]):
        first, index = members[0]
        row_weight = first.weights[index]
        key = names.unique(str(row_weight.root.name))
        weight = DynamicWeight(
            key=key,
            readers=tuple(dict.fromkeys(node.name for node, _ in members)),
            channels=row_weight.channels,
            length=row_weight.length,
            spec=rules.spec_for(node.form for node, _ in members),
            table=any(node.form is DynamicForm.LOOKUP for node, _ in members),
        )
        weights[key] = weight, [(node.name, i) for node, i in members]
        sources[key] = row_weight
    return weights, sources


def _groups(nodes: Sequence[DynamicNode]) -> Iterable[list[tuple[DynamicNode, int]]]:
    """Readers of one weight: tied layers, and other operators that read the same constant in the same form."""
    of_layer = {node.name: node for node in nodes if node.layer is not None}
    for tied in tie([node.layer for node in nodes if node.layer is not None]):
        yield [(of_layer[layer.name], layer.weight_index) for layer in tied]
    alike: dict[object, list[tuple[DynamicNode, int]]] = {}
    for node in nodes:
        if node.layer is None:
            for index, weight in node.weights.items():
                source = weight.source
                same = (node.form, source.root, source.strides, source.arithmetic, source.shape)
                alike.setdefault(same, []).append((node, index))
    yield from alike.values()
