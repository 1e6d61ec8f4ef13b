"""The weight-only plan: which weights are packed, how, and why the rest is not."""

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from vqonnx.algorithms.base import find_algorithm
from vqonnx.core.blocks import BlockSpec
from vqonnx.core.plan import Skip
from vqonnx.core.weight_plan import (
    FLOAT16_IN_BODY,
    CodebookSpec,
    LayerPlan,
    Reader,
    WeightForm,
    WeightOnlyPlan,
    WeightPlan,
)
from vqonnx.errors import OptionError, UnsupportedModelError, nearest
from vqonnx.graph.names import NameAllocator
from vqonnx.planning.selection import matching, rejections
from vqonnx.planning.weights.layers import LAYER_OPERATORS, Layer
from vqonnx.planning.weights.rules import LARGEST_ACCURACY_LEVEL, PRODUCT_OPERATORS, LayerOverride, WeightRules
from vqonnx.planning.weights.tied import Tied, float_readers, tie

_LOOKUP_FORMS = (WeightForm.MATMUL_NBITS, WeightForm.QDQ)
_DEQUANTIZED_FORMS = (WeightForm.QDQ, WeightForm.CHANNEL_QDQ)
"""Of which ONNX Runtime makes MatMulNBits itself."""
_TWO_BIT_OUTPUTS = 4
_FAST_BITS = 4
"""The one width whose MatMulNBits has fast kernels on float inputs (onnxruntime 1.31, CPU)."""
_NAMED = 5


@dataclass(frozen=True, slots=True)
class _Group:
    """Layers that will read one packed weight.

    Attributes:
        layers: The layers.
        override: What is fixed for them.
        parted_from: Names of layers with the same weight for which something else is fixed.
    """

    layers: Tied
    override: LayerOverride
    parted_from: tuple[str, ...] = ()


class NothingToPackError(UnsupportedModelError):
    """A model no weight of which can be packed.

    Attributes:
        skips: Why, for each node that could have been.
    """

    def __init__(self, skips: Sequence[Skip]) -> None:
        self.skips = tuple(skips)
        super().__init__(_nothing_to_pack(self.skips))


def plan_weights(
    layers: Sequence[Layer], skips: Iterable[Skip], rules: WeightRules, known: Iterable[str] = ()
) -> WeightOnlyPlan:
    """Decide which weights are packed, and how.

    Layers with the same weight share one packed weight, also where it is stored twice (``weights.tied``). What is
    fixed for one of them by ``rules.layers`` holds for all of them; where that is contradictory, layers of equal
    wishes share a packed weight. Constants are compared for it; nothing else reads them.

    Args:
        layers: From ``find_layers``, in graph order.
        skips: From ``find_layers``; they go into the plan.
        rules: What the user asks for.
        known: Further names of nodes that patterns may name without effect.

    Raises:
        OptionError: A pattern matches nothing, or a form or an algorithm has no such bits or blocks.
        NothingToPackError: There is nothing to pack.
    """
    found = tuple(skips)
    names = {*known, *(skip.node for skip in found)}
    overrides, notes = _overrides(layers, rules, names)
    rejected = _rejected(layers, rules, names)
    groups, left = _groups([layer for layer in layers if layer.name not in rejected], overrides, rules)
    rejected |= left
    _check_algorithms(groups, rules)
    if not groups:
        raise NothingToPackError([*found, *_skips(layers, rejected)])
    keys = NameAllocator()
    weights = [_weight_plan(group, rules, keys.unique(str(group.layers[0].weight.root.name))) for group in groups]
    of_node = {reader: weight.key for weight in weights for reader in weight.readers}
    return WeightOnlyPlan(
        weights={weight.key: weight for weight in weights},
        layers={
            layer.name: LayerPlan(
                node=layer.name, op_type=layer.node.op_type, weight=of_node[layer.name], reader=layer.reader
            )
            for layer in layers
            if layer.name in of_node
        },
        skips=(*found, *_skips(layers, rejected)),
        accuracy_level=rules.accuracy_level,
        notes=(*notes, *_parted(groups), *_slow_kernels(weights, rules), *_copies(groups)),
    )


def _rejected(layers: Sequence[Layer], rules: WeightRules, known: set[str]) -> dict[str, str]:
    """Why layers are left float by what the user asks, by node name."""
    op_types = rules.selection.op_types or PRODUCT_OPERATORS
    for op_type in op_types:
        if op_type not in LAYER_OPERATORS:
            raise OptionError(
                f"op_types_to_quantize: {op_type!r} has no packed form{nearest(op_type, LAYER_OPERATORS)}; "
                f"there are {', '.join(LAYER_OPERATORS)}.",
                option="op_types_to_quantize",
            )
    nodes = [layer.node for layer in layers]
    reasons = rejections(nodes, replace(rules.selection, op_types=op_types), known)
    if not rules.last_matmul:
        last = {layer.name: "nearest to the outputs (last_matmul=False)" for layer in layers if layer.is_last}
        reasons = last | reasons
    return reasons


def _overrides(
    layers: Sequence[Layer], rules: WeightRules, known: set[str]
) -> tuple[dict[str, LayerOverride], list[str]]:
    """What is fixed for each layer, by node name, and a note for each pattern that fixes nothing."""
    nodes = [layer.node for layer in layers]
    fixed: dict[str, LayerOverride] = {}
    notes = []
    for pattern, override in rules.layers.items():
        names = matching(nodes, [pattern], "layers", known)
        if not names:
            notes.append(f"layers: {pattern!r} matches only nodes that have no weight to pack")
        for name in names:
            fixed[name] = fixed.get(name, LayerOverride()).joined(override)
    return fixed, notes


def _groups(
    layers: Sequence[Layer], overrides: Mapping[str, LayerOverride], rules: WeightRules
) -> tuple[list[_Group], dict[str, str]]:
    """The layers that share a packed weight, and why some layers can have none, by node name."""
    groups: list[_Group] = []
    left: dict[str, str] = {}
    for tied in tie(layers):
        for group in _agreed(tied, overrides):
            spec = rules.spec_for(group.override)
            reasons = {layer: _refusal(layer, rules.form, spec) for layer in group.layers}
            kept = tuple(layer for layer, reason in reasons.items() if not reason)
            left |= {layer.name: reason for layer, reason in reasons.items() if reason}
            if kept:
                groups.append(replace(group, layers=kept))
    return groups, left


def _agreed(tied: Tied, overrides: Mapping[str, LayerOverride]) -> list[_Group]:
    """One group with all that is fixed for its layers, or, where that is contradictory, one for each wish."""
    wishes = [overrides.get(layer.name, LayerOverride()) for layer in tied]
    together = functools.reduce(LayerOverride.joined, wishes)
    if not any(wish.contradicts(together) for wish in wishes):
        return [_Group(tied, together)]
    parts = {
        wish: tuple(layer for layer, own in zip(tied, wishes, strict=True) if own == wish)
        for wish in dict.fromkeys(wishes)
    }
    first = tuple(layer.name for layer in parts[wishes[0]])
    return [_Group(part, wish, first if wish != wishes[0] else ()) for wish, part in parts.items()]


def _refusal(layer: Layer, form: WeightForm, spec: BlockSpec | CodebookSpec) -> str:
    """Why a form cannot hold the weight of a layer; empty if it can (onnxruntime 1.31, CPU)."""
    lookup = layer.reader is Reader.LOOKUP
    if lookup and form not in _LOOKUP_FORMS:
        return f"a table has no packed form with format {form.value!r}"
    two_bit_qdq = form is WeightForm.QDQ and isinstance(spec, BlockSpec) and spec.bits == 2
    if two_bit_qdq and not lookup and layer.out_features % _TWO_BIT_OUTPUTS:
        return (
            f"ONNX Runtime fuses 2-bit DequantizeLinear of {layer.out_features} outputs, no multiple of "
            f"{_TWO_BIT_OUTPUTS}, to wrong numbers"
        )
    if form in _DEQUANTIZED_FORMS and layer.in_body and not lookup and layer.dtype is ir.DataType.FLOAT16:
        return FLOAT16_IN_BODY
    return ""


def _check_algorithms(groups: Iterable[_Group], rules: WeightRules) -> None:
    for group in groups:
        spec = rules.spec_for(group.override)
        algorithm = find_algorithm(rules.algorithm_for(group.override))
        reason = algorithm.refusal(spec)
        if reason:
            raise OptionError(
                f"algorithm {algorithm.name!r} cannot solve layer {group.layers[0].name!r} with {spec}: {reason}",
                option="algorithm",
            )


def _weight_plan(group: _Group, rules: WeightRules, key: str) -> WeightPlan:
    first = group.layers[0]
    inputs = dict.fromkeys(layer.input.name or "" for layer in group.layers if layer.input is not None)
    return WeightPlan(
        key=key,
        readers=tuple(layer.name for layer in group.layers),
        in_features=first.in_features,
        out_features=first.out_features,
        dtype=np.dtype(first.dtype.numpy()).name,
        form=rules.form,
        spec=rules.spec_for(group.override),
        algorithm=find_algorithm(rules.algorithm_for(group.override)).name,
        inputs=tuple(inputs),
        looked_up=any(layer.reader is Reader.LOOKUP for layer in group.layers),
    )


def _skips(layers: Iterable[Layer], reasons: Mapping[str, str]) -> list[Skip]:
    return [Skip(layer.name, layer.node.op_type, reasons[layer.name]) for layer in layers if layer.name in reasons]


def _nothing_to_pack(skips: Iterable[Skip]) -> str:
    reasons = Counter((skip.op_type, skip.reason) for skip in skips).most_common()
    if not reasons:
        return (
            "the model has no constant weight that a MatMul, Gemm, Conv or Gather reads, so there is nothing to pack."
        )
    told = "; ".join(f"{count} x {op_type}: {reason}" for (op_type, reason), count in reasons[:_NAMED])
    more = f"; and {len(reasons) - _NAMED} more reasons" if len(reasons) > _NAMED else ""
    return f"no weight of the model can be packed as asked. {told}{more}."


def _parted(groups: Iterable[_Group]) -> Iterator[str]:
    """A note for each weight that is packed once more, since different things are fixed for its layers."""
    for group in groups:
        if group.parted_from:
            own = ", ".join(layer.name for layer in group.layers)
            yield (
                f"{own}: the weight is that of {', '.join(group.parted_from)}, but packed apart, since layers= fixes "
                "different things for them"
            )


def _slow_kernels(weights: Iterable[WeightPlan], rules: WeightRules) -> Iterator[str]:
    """A note where ONNX Runtime's CPU has no fast kernel for what is asked."""
    if rules.form is not WeightForm.MATMUL_NBITS or rules.accuracy_level == LARGEST_ACCURACY_LEVEL:
        return
    bits = {weight.spec.bits for weight in weights if isinstance(weight.spec, BlockSpec)} - {_FAST_BITS}
    if bits:
        yield (
            f"accuracy_level={rules.accuracy_level}: ONNX Runtime's CPU has no fast kernel for "
            f"{' and '.join(map(str, sorted(bits)))} bits below level 4 and takes up to 100 times as long"
        )


def _copies(groups: Sequence[_Group]) -> Iterator[str]:
    """A note for each constant that other nodes go on reading, so that its float copy stays."""
    layers = [layer for group in groups for layer in group.layers]
    packed = {(layer.node, layer.weight_index) for layer in layers}
    for root, source in {layer.weight.root: layer.weight for layer in layers}.items():
        readers = float_readers(root, packed)
        if readers:
            told = ", ".join(readers[:_NAMED]) + (" …" if len(readers) > _NAMED else "")
            yield f"{root.name!r} ({source.stored.nbytes:,} bytes) stays beside its packed form, for {told}"
