"""The quantized form of every tensor that an integer node touches."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import onnx_ir as ir

from vqonnx.core.granularity import PerAxis, PerBlock, PerTensor
from vqonnx.core.plan import NodePlan, Role, TensorPlan
from vqonnx.core.qtype import INT32, Kind
from vqonnx.core.spec import QuantSpec
from vqonnx.core.target import Kernel
from vqonnx.errors import UnsupportedOptionError
from vqonnx.graph.facts import int_attribute
from vqonnx.graph.walk import constant_tensor, is_float
from vqonnx.planning.bounds import known_bounds, range_if_dead
from vqonnx.planning.candidate import Candidate
from vqonnx.planning.forms import form_of, override_error
from vqonnx.planning.layer_types import TensorTypes, summed_axis
from vqonnx.planning.partition import Partition
from vqonnx.planning.rules import LayerTypes, Override, PlanRules
from vqonnx.planning.stored import stored_form


@dataclass(slots=True)
class Assignment:
    """Tensor and node plans, as they grow node by node."""

    rules: PlanRules
    partition: Partition
    layers: Mapping[str, LayerTypes]
    tensors: dict[str, TensorPlan] = field(default_factory=dict)
    nodes: dict[str, NodePlan] = field(default_factory=dict)
    activations: dict[tuple[str, QuantSpec], str] = field(default_factory=dict)
    """Key of each activation by its name and spec: another form may have that name as its key."""
    values: dict[str, ir.Value] = field(default_factory=dict)
    """What is measured, by the key of its first form."""

    @property
    def types(self) -> TensorTypes:
        """Answers for the specs."""
        return TensorTypes(self.partition, self.rules, self.layers)


def assign(
    partition: Partition, rules: PlanRules, layers: Mapping[str, LayerTypes] = MappingProxyType({})
) -> tuple[dict[str, TensorPlan], dict[str, NodePlan]]:
    """Give every input and output of the integer nodes its quantized form.

    Args:
        partition: The integer nodes.
        rules: What was asked for.
        layers: Types of single nodes, by name.

    Returns:
        Tensor plans by key and node plans by node name, both in graph order.
    """
    work = Assignment(rules, partition, layers)
    for candidate in partition:
        if partition.follows(candidate):
            _plan_node(work, candidate, candidate.node, _inputs(work, candidate, behind=True))
        elif candidate.add is None:
            _plan_node(work, candidate, candidate.node, _inputs(work, candidate))
        else:
            _plan_linear(work, candidate, *candidate.add)
    _convert_for_others(work)
    _share_scales(work)
    return work.tensors, work.nodes


def _plan_node(work: Assignment, candidate: Candidate, node: ir.Node, inputs: list[str | None]) -> None:
    outputs = tuple(_output(work, candidate, output) for output in node.outputs)
    _register(work, candidate, node, inputs, outputs)


def _plan_linear(work: Assignment, candidate: Candidate, add: ir.Node, bias_index: int) -> None:
    """A MatMul with float output, and the Add behind it whose constant is the bias of the product."""
    inputs = _inputs(work, candidate)
    _register(work, candidate, candidate.node, inputs, (None,))
    bias: list[str | None] = [None, None]
    bias[bias_index] = _bias(work, candidate, inputs)
    _plan_node(work, candidate, add, bias)


def _register(
    work: Assignment,
    candidate: Candidate,
    node: ir.Node,
    inputs: list[str | None],
    outputs: tuple[str | None, ...],
) -> None:
    work.nodes[node.name or ""] = NodePlan(
        node=node.name or "",
        op_type=node.op_type,
        kernel=_kernel(work, candidate),
        inputs=tuple(inputs),
        outputs=outputs,
    )


def _kernel(work: Assignment, candidate: Candidate) -> Kernel:
    """The kernel; that of an activation that stands alone computes."""
    kernel = candidate.support.kernel
    return Kernel.COMPUTE if kernel.is_activation and not work.partition.follows(candidate) else kernel


def _inputs(work: Assignment, candidate: Candidate, *, behind: bool = False) -> list[str | None]:
    """The key of each input; the first of an activation ``behind`` another node has none."""
    keys: list[str | None] = [None] * len(candidate.node.inputs)
    # ONNX Runtime (1.31) fuses 8-bit activations with weights in blocks to integer products, which refuse them.
    is_blocked = work.rules.block_size > 0 and candidate.weight() is not None
    for index in () if is_blocked else candidate.activations():
        value = candidate.input(index)
        if value is not None and not (behind and index == 0):
            keys[index] = _operand(work, value, candidate)
    weight, support = candidate.weight(), candidate.support
    if weight is not None and support.weight is not None:
        keys[support.weight] = _weight(work, weight, candidate)
    if support.bias is not None and candidate.bias() is not None:
        keys[support.bias] = _bias(work, candidate, keys)
    return keys


def _operand(work: Assignment, value: ir.Value, candidate: Candidate) -> str | None:
    """An input that is measured, or an elementwise constant, which has a range of its own."""
    name, wanted = value.name or "", work.types.read(value, candidate)
    override = work.rules.overrides.get(name)
    if constant_tensor(value) is not None:
        return _add(work, form_of(name, Role.WEIGHT, wanted, override))
    if not work.rules.activations:
        return None
    key, conversion = _activation(work, value, wanted), override.conversion if override else None
    if conversion is not None and (not conversion.readers or candidate.name in conversion.readers):
        return _converted(work, key, work.tensors[key].spec, conversion.form)
    fixed = override is not None and override.qtype is not None
    if not fixed and work.types.differs(value, candidate):
        return _converted(work, key, wanted, None)
    return key


def _converted(work: Assignment, key: str, spec: QuantSpec, override: Override | None) -> str:
    """A second form of an activation, made of the first."""
    original = work.tensors[key]
    form = form_of(original.tensor, Role.ACTIVATION, spec, override)
    if form.bounds is None and form.fixed is None:
        method = None if original.bounds else work.rules.method
        form = replace(form, bounds=original.bounds, method=method, if_dead=original.if_dead)
    return _add(work, replace(form, key=f"{original.tensor}_{form.spec.qtype.name}", converted_from=key))


def _activation(work: Assignment, value: ir.Value, wanted: QuantSpec | None = None) -> str:
    """The form of a value as the integer node gives it that computes it, or as a reader wants what none computes."""
    name = value.name or ""
    computed = wanted is None or work.partition.maker(value) is not None
    spec = work.types.made(value) if computed or wanted is None else wanted
    if (name, spec) in work.activations:
        return work.activations[name, spec]
    form = stored_form(value, work.rules) or form_of(name, Role.ACTIVATION, spec, work.rules.overrides.get(name))
    if form.bounds is None and form.fixed is None:
        maker = work.partition.maker(value)
        bounds, method = known_bounds(maker, work.rules), work.rules.method
        form = replace(form, bounds=bounds, method=None if bounds else method, if_dead=range_if_dead(maker))
    key = work.activations[name, spec] = _add(work, form)
    work.values[key] = value
    return key


def _output(work: Assignment, candidate: Candidate, output: ir.Value) -> str | None:
    """The form of an output: none where a clip follows, or where float is free and no integer node reads it."""
    if not is_float(output) or work.partition.clip_after(candidate) is not None or not work.rules.activations:
        return None
    is_free = work.partition.has_free_float_output(candidate, output)
    return None if is_free or candidate.node.op_type in work.rules.float_outputs else _activation(work, output)


def _weight(work: Assignment, weight: ir.Value, candidate: Candidate) -> str:
    name = weight.name or ""
    override = work.rules.overrides.get(name)
    axis = candidate.channel_axis() if work.rules.per_channel else None
    if axis is not None or (work.rules.per_channel and candidate.node.op_type in work.rules.channel_axes):
        axis = work.rules.channel_axes.get(candidate.node.op_type, axis)
    if override is not None and override.axis is not None:
        axis = override.axis
    rank = len(weight.shape) if weight.shape is not None else 0
    if candidate.node.op_type == "MatMul" and rank != 2:
        axis = None  # QLinearMatMul takes a scale a column for matrices only
    if axis is not None and not -rank <= axis < rank:
        raise override_error(name, f"has rank {rank}, so no axis {axis}")
    spec = work.types.weight(weight, candidate)
    if spec.has_scale:
        spec = replace(spec, granularity=PerAxis(axis % rank) if axis is not None and rank else PerTensor())
    if work.rules.block_size:
        spec = replace(spec, granularity=_blocks(candidate, work.rules.block_size, rank))
    return _add(work, form_of(name, Role.WEIGHT, spec, override))


def _blocks(candidate: Candidate, size: int, rank: int) -> PerBlock:
    """Blocks along the axis that a product adds up over."""
    if candidate.node.op_type not in ("Gemm", "MatMul") or rank != 2:
        raise UnsupportedOptionError(
            f"BlockSize: the weight of {candidate.node.op_type} {candidate.name!r} has rank {rank}, and blocks are for "
            "matrices of MatMul and Gemm. Name those in op_types_to_quantize, or leave BlockSize out.",
            option="BlockSize",
        )
    return PerBlock(summed_axis(candidate.node, candidate.support.weight or 1, rank), size)


def _bias(work: Assignment, candidate: Candidate, keys: list[str | None]) -> str | None:
    source, weight, bias = keys[0], keys[candidate.support.weight or 1], candidate.bias()
    if source is None or weight is None or bias is None or not work.rules.quantize_bias:
        return None
    override = work.rules.overrides.get(bias.name or "")
    if override is not None and work.rules.form.keeps_operators and constant_tensor(bias) is not None:
        axis = override.axis if override.axis is not None else 0 if work.rules.per_channel else None
        spec = work.rules.weight if axis is None else replace(work.rules.weight, granularity=PerAxis(axis))
        return _add(work, form_of(bias.name or "", Role.WEIGHT, spec, override))
    if _keeps_float_bias(work, candidate, bias, (source, weight)):
        return None
    per_channel = isinstance(work.tensors[weight].spec.granularity, PerAxis)
    spec = QuantSpec(qtype=INT32, symmetric=True, granularity=PerAxis(0) if per_channel else PerTensor())
    form = form_of(bias.name or "", Role.BIAS, spec, None)
    repeats = int_attribute(candidate.node, "group", 1) if candidate.node.op_type == "ConvTranspose" else 1
    return _add(work, replace(form, scale_of=(source, weight), repeats=repeats if per_channel else 1))


def _keeps_float_bias(work: Assignment, candidate: Candidate, bias: ir.Value, scaled: tuple[str, str]) -> bool:
    """Whether input_scale * weight_scale is no scale for the bias, or DequantizeLinear could not hold it."""
    tensor, is_qdq = constant_tensor(bias), work.rules.form.keeps_operators
    own = work.rules.own_bias is not None and is_qdq
    if tensor is None or not (own or all(work.tensors[key].spec.qtype.kind is Kind.INTEGER for key in scaled)):
        return True  # computed at run time; or of no integers
    if bias.dtype != ir.DataType.FLOAT and is_qdq and not work.rules.half_biases:
        return True  # a float16 scale is too coarse for the accumulator's
    granularity = work.tensors[scaled[1]].spec.granularity
    if isinstance(granularity, PerAxis):  # the user's axis may be another than that of the outputs
        return granularity != PerAxis(candidate.channel_axis() or 0) or len(tensor.shape) != 1
    return isinstance(granularity, PerBlock) and bool(work.rules.block_size)


def _convert_for_others(work: Assignment) -> None:
    """Add the second form, where the user asks for one, of graph outputs that no node reads, and for float nodes."""
    for key, value in work.values.items():
        conversion = work.rules.overrides.get(value.name or "", Override()).conversion
        if conversion is None or not work.rules.form.keeps_operators:
            continue
        floats = [(node.name or "", index) for node, index in value.uses() if node.name not in work.nodes]
        readers = tuple(use for use in floats if use[0] in conversion.readers)
        if readers or not conversion.readers:
            converted = _converted(work, key, work.tensors[key].spec, conversion.form)
            work.tensors[converted] = replace(work.tensors[converted], readers=readers)


def _add(work: Assignment, plan: TensorPlan) -> str:
    """Register a form, under the tensor's name or, where another meaning has it, under the next free number."""
    plan = replace(plan, group=plan.group or plan.key)
    key, number = plan.key, 1
    while key in work.tensors and not _same_meaning(work.tensors[key], plan):
        number += 1
        key = f"{plan.key}_{number}"
    if key not in work.tensors:
        work.tensors[key] = replace(plan, key=key, group=key if plan.group == plan.key else plan.group)
    return key


def _same_meaning(one: TensorPlan, other: TensorPlan) -> bool:
    return (one.tensor, one.role, one.spec, one.scale_of, one.converted_from, one.bounds) == (
        other.tensor, other.role, other.spec, other.scale_of, other.converted_from, other.bounds,
    )  # fmt: skip


def _share_scales(work: Assignment) -> None:
    """Give the values around data movers, and around operators that demand it, one common scale."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while key in parent:
            key = parent[key]
        return key

    for candidate in work.partition:
        if candidate.support.kernel is Kernel.MOVES or candidate.support.same_scale:
            plan = work.nodes[candidate.name]
            shared = [key for key in (*plan.inputs, *plan.outputs) if key is not None]
            for key in shared[1:]:
                if (a := root(shared[0])) != (b := root(key)):
                    parent[b] = a
    moved = _moved_values(work)
    for key, tensor in work.tensors.items():
        method = None if key in moved and root(key) != key else tensor.method
        work.tensors[key] = replace(tensor, group=root(tensor.group), method=method)


def _moved_values(work: Assignment) -> set[str]:
    """Outputs of data movers: their values are among their input's, so they need no measurement of their own."""
    plans = work.nodes.values()
    return {key for plan in plans if plan.kernel is Kernel.MOVES for key in plan.outputs if key is not None}
