"""The quantized form of every tensor that an integer node touches."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from vqonnx.core.granularity import PerAxis, PerTensor
from vqonnx.core.plan import NodePlan, Role, TensorPlan
from vqonnx.core.qtype import INT32, Kind
from vqonnx.core.spec import QuantSpec
from vqonnx.core.target import Form, Kernel
from vqonnx.errors import OptionError
from vqonnx.graph.facts import int_attribute
from vqonnx.graph.walk import constant_tensor, is_float
from vqonnx.planning.eligible import Candidate
from vqonnx.planning.layer_types import TensorTypes
from vqonnx.planning.partition import Partition
from vqonnx.planning.rules import LayerTypes, Override, PlanRules


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
    for index in candidate.activations():
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
    name = value.name or ""
    override = work.rules.overrides.get(name)
    wanted = work.types.read(value, candidate)
    if constant_tensor(value) is not None:
        return _add(work, _form(name, Role.WEIGHT, wanted, override))
    if not work.rules.activations:
        return None
    key = _activation(work, value, wanted)
    conversion = override.conversion if override else None
    if conversion is not None and (not conversion.readers or candidate.name in conversion.readers):
        return _converted(work, key, work.tensors[key].spec, conversion.form)
    fixed = override is not None and override.qtype is not None
    if not fixed and work.types.differs(value, candidate):
        return _converted(work, key, wanted, None)
    return key


def _converted(work: Assignment, key: str, spec: QuantSpec, override: Override | None) -> str:
    """A second form of an activation, made of the first."""
    original = work.tensors[key]
    form = _form(original.tensor, Role.ACTIVATION, spec, override)
    if form.bounds is None and form.fixed is None:
        form = replace(form, bounds=original.bounds, method=None if original.bounds else work.rules.method)
    return _add(work, replace(form, key=f"{original.tensor}_{form.spec.qtype.name}", converted_from=key))


def _activation(work: Assignment, value: ir.Value, wanted: QuantSpec | None = None) -> str:
    """The form of a value as the integer node gives it that computes it, or as a reader wants what none computes."""
    name = value.name or ""
    computed = wanted is None or work.partition.maker(value) is not None
    spec = work.types.made(value) if computed or wanted is None else wanted
    if (name, spec) in work.activations:
        return work.activations[name, spec]
    form = _form(name, Role.ACTIVATION, spec, work.rules.overrides.get(name))
    if form.bounds is None and form.fixed is None:
        maker = work.partition.maker(value)
        bounds = maker.support.output_bounds if maker is not None else None
        form = replace(form, bounds=bounds, method=None if bounds else work.rules.method)
    work.activations[name, spec] = _add(work, form)
    return work.activations[name, spec]


def _output(work: Assignment, candidate: Candidate, output: ir.Value) -> str | None:
    """The form of an output: none where a clip follows, or where float is free and no integer node reads it."""
    if not is_float(output) or work.partition.clip_after(candidate) is not None or not work.rules.activations:
        return None
    return None if work.partition.has_free_float_output(candidate, output) else _activation(work, output)


def _weight(work: Assignment, weight: ir.Value, candidate: Candidate) -> str:
    name = weight.name or ""
    override = work.rules.overrides.get(name)
    axis = candidate.channel_axis() if work.rules.per_channel else None
    if override is not None and override.axis is not None:
        axis = override.axis
    rank = len(weight.shape) if weight.shape is not None else 0
    if candidate.node.op_type == "MatMul" and rank != 2:
        axis = None  # QLinearMatMul takes a scale a column for matrices only
    if axis is not None and not -rank <= axis < rank:
        raise _override_error(name, f"has rank {rank}, so no axis {axis}")
    spec = work.types.weight(weight, candidate)
    if spec.has_scale:
        spec = replace(spec, granularity=PerAxis(axis % rank) if axis is not None and rank else PerTensor())
    return _add(work, _form(name, Role.WEIGHT, spec, override))


def _bias(work: Assignment, candidate: Candidate, keys: list[str | None]) -> str | None:
    source, weight, bias = keys[0], keys[candidate.support.weight or 1], candidate.bias()
    if source is None or weight is None or bias is None or not work.rules.quantize_bias:
        return None
    own = work.rules.own_bias is not None and work.rules.form is Form.QDQ
    if not own and not all(work.tensors[key].spec.qtype.kind is Kind.INTEGER for key in (source, weight)):
        return None  # no scales that an integer's could be made of: such biases stay float
    if bias.dtype != ir.DataType.FLOAT and work.rules.form is Form.QDQ:
        return None  # DequantizeLinear's float16 scale cannot hold input_scale * weight_scale: such biases stay float
    granularity = work.tensors[weight].spec.granularity
    per_channel = isinstance(granularity, PerAxis)
    if per_channel and granularity != PerAxis(candidate.channel_axis() or 0):
        return None  # the user's axis is not that of the outputs
    spec = QuantSpec(qtype=INT32, symmetric=True, granularity=PerAxis(0) if per_channel else PerTensor())
    form = _form(bias.name or "", Role.BIAS, spec, None)
    repeats = int_attribute(candidate.node, "group", 1) if candidate.node.op_type == "ConvTranspose" else 1
    return _add(work, replace(form, scale_of=(source, weight), repeats=repeats if per_channel else 1))


def _form(name: str, role: Role, spec: QuantSpec, override: Override | None) -> TensorPlan:
    """A tensor's plan with what the user fixed for it."""
    if override is not None and override.qtype is not None:
        spec = replace(spec, qtype=override.qtype)
    plan = TensorPlan(key=name, tensor=name, role=role, spec=spec)
    if not spec.has_scale:
        return replace(plan, fixed=(np.array(1.0), np.array(0)))
    if override is None:
        return plan
    spec = replace(
        spec,
        symmetric=spec.symmetric if override.symmetric is None else override.symmetric,
        reduce_range=spec.reduce_range if override.reduce_range is None else override.reduce_range,
    )
    if override.scale is not None and override.zero_point is not None:
        _check_fixed(name, spec, override.scale, override.zero_point)
        fixed = (np.asarray(override.scale, np.float64), np.asarray(override.zero_point, np.int64))
        return replace(plan, spec=spec, fixed=fixed)
    if override.low is not None and override.high is not None:
        return replace(plan, spec=spec, bounds=(override.low, override.high))
    return replace(plan, spec=spec)


def _check_fixed(name: str, spec: QuantSpec, scale: tuple[float, ...], zero_point: tuple[int, ...]) -> None:
    qtype = spec.qtype
    if any(not qtype.qmin <= zero <= qtype.qmax for zero in zero_point):
        raise _override_error(name, f"zero_point {list(zero_point)} does not fit {qtype.name}")
    if len(scale) != len(zero_point):
        raise _override_error(name, f"has {len(scale)} scales but {len(zero_point)} zero points")
    if len(scale) > 1 and not isinstance(spec.granularity, PerAxis):
        raise _override_error(name, f"has {len(scale)} scales, but only weights take one a channel")


def _override_error(name: str, text: str) -> OptionError:
    return OptionError(f"TensorQuantOverrides: {name!r} {text}.", option="TensorQuantOverrides")


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
    movers = (plan for plan in work.nodes.values() if plan.kernel is Kernel.MOVES)
    return {key for plan in movers for key in plan.outputs if key is not None}
