"""Candidates and partition on a target that takes graphs as given: what it lists is quantized, whatever that gains.

A pass over the nodes in graph order, since an operator that only follows is quantized where its inputs are already.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from vqonnx.core.plan import Skip
from vqonnx.core.target import Kernel, OpSupport, Target
from vqonnx.graph.facts import operator_key, pad_fill
from vqonnx.graph.walk import constant_tensor, is_float
from vqonnx.planning.candidate import Candidate
from vqonnx.planning.eligible import has_float_edge
from vqonnx.planning.obstacles import AS_GIVEN_CHECKS, CHANNEL_CHECKS, INTEGER_CHECKS, is_exact_on_codes
from vqonnx.planning.partition import Partition
from vqonnx.planning.rules import PlanRules

_LOOKUPS = frozenset({"Gather", "GatherElements"})
"""Quantized where their table is a constant, too."""
_CLIPS = frozenset({"Clip", "Relu"})
_SKIPPED = frozenset({"Cast", "DequantizeLinear", "QuantizeLinear"})


def listed_candidates(
    nodes: Sequence[ir.Node], target: Target, rejected: Mapping[str, str], rules: PlanRules
) -> tuple[list[Candidate], list[Skip]]:
    """Split the nodes with a float edge into those that the target lists, or the user names, and the others.

    Args:
        nodes: The nodes of the main graph, in graph order.
        target: The target.
        rejected: Nodes that the user leaves float, with the reason.
        rules: What the user asks for: operators by name, conversions.
    """
    found: list[Candidate] = []
    skips: list[Skip] = []
    asked = frozenset(rules.selection.op_types) - _SKIPPED
    converted = {name for name, override in rules.overrides.items() if override.conversion is not None}
    for node in filter(has_float_edge, nodes):
        support = target.ops.get(operator_key(node)) or (target.others if node.op_type in asked else None)
        reason = rejected.get(node.name or "") or _refused(node, support, rules)
        if reason or support is None:
            skips.append(Skip(node.name or "", node.op_type, reason))
        else:
            found.append(Candidate(node, _as_it_can(node, support, converted)))
    return found, skips


def _refused(node: ir.Node, support: OpSupport | None, rules: PlanRules) -> str:
    if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        return "already quantized"
    if support is None:
        return f"{operator_key(node)} is quantized only where op_types_to_quantize names it"
    if support.types and support.kernel is Kernel.CLIPS and not is_exact_on_codes(Candidate(node, support)):
        return "it clips to bounds that no range of codes repeats"
    checks = AS_GIVEN_CHECKS
    if support.types:
        checks += INTEGER_CHECKS + (CHANNEL_CHECKS if rules.per_channel else ())
    return next((reason for check in checks if (reason := check(Candidate(node, support)))), "")


def _as_it_can(node: ir.Node, support: OpSupport, converted: Collection[str]) -> OpSupport:
    """A mover that adds values, and a clip that no range repeats, compute: their output has a range of its own.

    So does a clip beside a value that is converted, as the node before it must give that in the first type.
    An integer Pad takes its input, and a fill that is computed at run time, in the scale of its output, whose range
    holds what it fills with.
    """
    if node.op_type == "Pad" and support.types and pad_fill(node) is None:
        support = replace(support, activations=(0, 2))
    is_apart = support.kernel is Kernel.CLIPS and any(
        value is not None and value.name in converted for value in (node.inputs[0], node.outputs[0])
    )
    if support.kernel is Kernel.COMPUTE or (not is_apart and is_exact_on_codes(Candidate(node, support))):
        return support
    return replace(support, kernel=Kernel.COMPUTE, same_scale=bool(support.types))


class ListedPartition(Partition):
    """All candidates but those that follow, and whose inputs are not quantized.

    Args:
        candidates: In graph order.
        everything: Quantize those too.
        float_outputs: Operators whose outputs are not quantized.
        float_clips: Leave clips float that integer operators would clip codes for.
    """

    def __init__(
        self,
        candidates: Iterable[Candidate],
        *,
        everything: bool = False,
        float_outputs: Iterable[str] = (),
        float_clips: bool = False,
    ) -> None:
        self._quantized: set[ir.Value] = set()
        self._float_clips = float_clips
        self._float_outputs = frozenset(float_outputs)
        super().__init__(candidates, everything=everything)

    def _may_clip(self, candidate: Candidate) -> bool:
        """A float mover is quantized behind it, and so may have another range than it reads."""
        is_float_mover = candidate.support.kernel is Kernel.MOVES and not candidate.support.types
        return is_float_mover or super()._may_clip(candidate)

    def _reduce(self) -> None:
        for candidate in list(self._kept.values()):
            if self._is_in_place(candidate):
                self._mark(candidate)
            else:
                del self._kept[candidate.node]
                reason = "its input is not quantized; ForceQuantizeNoInputCheck quantizes it"
                self.skips.append(Skip(candidate.name, candidate.node.op_type, reason))

    def _is_in_place(self, candidate: Candidate) -> bool:
        is_clip = candidate.support.kernel is Kernel.CLIPS
        if is_clip and candidate.support.types and (self._float_clips or not self.follows(candidate)):
            return False  # there is no integer operator for a clip that stands alone
        if not candidate.support.follows or (self._everything and candidate.node.op_type not in _CLIPS):
            return True
        values = [value for i in candidate.activations() if (value := candidate.input(i)) is not None]
        values = values[:1] if candidate.node.op_type == "Pad" else values
        ready: Callable[[ir.Value], bool] = self._quantized.__contains__
        is_table = candidate.node.op_type in _LOOKUPS and all(constant_tensor(value) is not None for value in values)
        return is_table or all(map(ready, values))

    def _mark(self, candidate: Candidate) -> None:
        inputs = (candidate.input(i) for i in candidate.activations())
        self._quantized.update(value for value in inputs if value is not None)
        if candidate.node.op_type not in self._float_outputs:
            self._quantized.update(output for output in candidate.node.outputs if is_float(output))
