"""Whether the target has a kernel for what a plan makes of each node: its types, its channel axis, its bias."""

from collections.abc import Iterator, Mapping, Sequence

from vqonnx.core.granularity import PerAxis
from vqonnx.core.plan import NodePlan, TensorPlan
from vqonnx.errors import OptionError
from vqonnx.planning.candidate import Candidate
from vqonnx.planning.partition import Partition


def check_kernels(partition: Partition, tensors: Mapping[str, TensorPlan], nodes: Mapping[str, NodePlan]) -> None:
    """Compare a plan with the kernels of the target; operators for which it names no types take any.

    Raises:
        OptionError: The user's options ask for something that no kernel of the target takes.
    """
    for candidate in partition:
        plan = nodes[candidate.name]
        outputs = [*plan.outputs, *nodes[candidate.tail.name or ""].outputs]
        clip = partition.clip_after(candidate)
        if clip is not None:
            outputs += nodes[clip.name].outputs
        reason = next(_complaints(candidate, _forms(plan.inputs, tensors), _forms(outputs, tensors)), None)
        if candidate.support.types and reason is not None:
            raise OptionError(
                f"quant_format: no integer operator does what is asked of {candidate.node.op_type} {candidate.name!r}: "
                f"{reason}. Change that, leave the node float (nodes_to_exclude), or write the QDQ form "
                "(QuantFormat.QDQ).",
                option="quant_format",
            )


def _forms(keys: Sequence[str | None], tensors: Mapping[str, TensorPlan]) -> dict[int, TensorPlan]:
    return {index: tensors[key] for index, key in enumerate(keys) if key is not None}


def _complaints(
    candidate: Candidate, inputs: Mapping[int, TensorPlan], outputs: Mapping[int, TensorPlan]
) -> Iterator[str]:
    support = candidate.support
    weight = inputs.get(-1 if support.weight is None else support.weight)
    activations = [form for index, form in inputs.items() if index not in (support.weight, support.bias)]
    found = sorted({form.spec.qtype.name for form in (*activations, *outputs.values())})
    if len(found) > 1:
        yield f"its activations would be {' and '.join(found)}, which must be of one type"
    weights = support.types.get("".join(found), None)
    if weights is None or (weight is not None and weight.spec.qtype.name not in weights):
        asked = " x ".join([*found, *([weight.spec.qtype.name] if weight is not None else [])])
        yield f"it would be {asked}, and there is {_kernels(support.types)}"
    if weight is not None and isinstance(weight.spec.granularity, PerAxis):
        axis = weight.spec.granularity.axis
        if axis != candidate.channel_axis():
            yield f"its weight would have a scale an index of axis {axis}, which is not that of its outputs"
        if support.one_zero_point and not weight.spec.symmetric:
            yield "each channel of its weight would have a zero point of its own (WeightSymmetric gives them one)"
    if support.bias is not None and candidate.input(support.bias) is not None and support.bias not in inputs:
        yield "its bias would stay float, and must be int32"


def _kernels(types: Mapping[str, tuple[str, ...]]) -> str:
    pairs = [f"{one} x {other}" for one, others in types.items() for other in others]
    return ", ".join(pairs or types)
