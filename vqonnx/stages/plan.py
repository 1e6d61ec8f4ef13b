"""Plan: which nodes become quantized, in what form, and why the others do not."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import onnx_ir as ir

from vqonnx.core.plan import Plan, Role, Skip, TensorPlan
from vqonnx.core.qtype import INT8
from vqonnx.core.target import Form, Kernel, OpSupport, Target
from vqonnx.errors import OptionError, nearest
from vqonnx.graph.facts import linear_add, operator_key
from vqonnx.graph.walk import control_flow_nodes, holds_control_flow, only_reader, subgraphs, values_by_name
from vqonnx.planning.assign import assign
from vqonnx.planning.eligible import candidates, has_float_edge
from vqonnx.planning.fix_neurons import check_fix_neurons
from vqonnx.planning.kernels import check_kernels
from vqonnx.planning.layer_types import types_by_node
from vqonnx.planning.listed import ListedPartition, listed_candidates
from vqonnx.planning.own_biases import with_own_bias_scales, with_wide_biases
from vqonnx.planning.partition import Partition
from vqonnx.planning.quantized import quantized_already
from vqonnx.planning.rules import PlanRules
from vqonnx.planning.selection import rejections

_CPU = "CPUExecutionProvider"
_NAMES_TYPES = 21
"""The opset whose QuantizeLinear has the attribute ``output_dtype``."""


def make_plan(model: ir.Model, target: Target, rules: PlanRules, known: Iterable[str] = ()) -> Plan:
    """Decide for every node of a prepared model whether and how it is quantized.

    Args:
        model: A prepared model: unique names, known types, constants folded.
        target: What the device runs in integers.
        rules: What the user and the guard ask for.
        known: Names of nodes that preparation folded away; patterns may name them without effect.

    Raises:
        OptionError: A name or pattern matches nothing, or the target has no kernels for the form or types asked for.
    """
    bodies = _enters_bodies(target, rules)
    nodes = list(control_flow_nodes(model.graph) if bodies else model.graph)
    _check_overrides(model, rules)
    device = _with_ops(target, rules)
    entered = {
        node.name or "": "its bodies are planned node by node" for node in nodes if bodies and holds_control_flow(node)
    }
    rejected = {
        **entered,
        **_not_requested(nodes, device, rules),
        **quantized_already(nodes, device.ops, rules.keep_stored),
        **rejections(nodes, rules.selection, known, {key.rpartition("::")[2] for key in device.ops}),
        **_with_followers(nodes, rules.floats, device.ops),
    }
    if device.as_given:
        found, skips = listed_candidates(nodes, device, rejected, rules)
        partition: Partition = ListedPartition(
            found,
            everything=rules.everything,
            float_outputs=rules.float_outputs,
            float_clips=rules.activation.symmetric,
        )
    else:
        found, skips = candidates(nodes, device, rejected)
        partition = Partition(
            found,
            everything=rules.everything or device.everything,
            edges=device.everything and rules.activation.has_scale,  # blocks would lie along other axes behind a mover
        )
    tensors, plans = assign(partition, rules, types_by_node(nodes, rules.layers))
    check_kernels(partition, tensors, plans)
    left = [*skips, *partition.skips, *_in_bodies(node for node in nodes if node.name not in entered)]
    order = {node.name: position for position, node in enumerate(nodes)}
    left.sort(key=lambda skip: order.get(skip.node, len(order)))
    contrib, retyped = rules.contrib or _above(target, model), _retyped_by_runtime(model, tensors.values())
    plan = Plan(
        target=target.name,
        tensors=tensors,
        nodes=plans,
        skips=tuple(left),
        form=rules.form,
        keep_clips=rules.keep_clips or (target.as_given and rules.activation.symmetric),
        contrib=contrib or (retyped and target.provider == _CPU),
        keeps_int8=retyped and not contrib and target.provider != _CPU,
        custom_ops=rules.custom_ops,
        clip_bfloat16=rules.clip_bfloat16,
        weight_pairs=rules.weight_pairs,
        own_pairs=rules.own_pairs,
        peer_layout=target.as_given,
        half_step_clips=target.as_given,
    )
    own_bias = rules.own_bias if rules.form.keeps_operators else None
    plan = with_wide_biases(plan) if own_bias is None else with_own_bias_scales(plan, own_bias)
    if plan.form is Form.FIX_NEURON:
        check_fix_neurons(plan)
    return plan


def _above(target: Target, model: ir.Model) -> bool:
    """Whether the model's opset is above the target's highest, so that com.microsoft's operators must serve.

    DirectML lists int32, the type of biases, for ONNX's DequantizeLinear up to opset 20 only.
    """
    return (model.graph.opset_imports.get("") or 0) > target.max_opset


def _retyped_by_runtime(model: ir.Model, tensors: Iterable[TensorPlan]) -> bool:
    """Whether ONNX's own pairs may not load on ONNX Runtime's CPU, so that com.microsoft's must serve.

    ONNX Runtime 1.31 repeats a pair beside a Reshape, Transpose, MaxPool … that stays float, also beside those that its
    own fusions add. From opset 21 on the copy names its type in ``output_dtype``, and still does when on x86 int8 codes
    become uint8 ones later: a type error at load. Nodes that another provider takes are not made uint8.
    """
    named = (model.graph.opset_imports.get("") or 0) >= _NAMES_TYPES
    signed = any(tensor.role is Role.ACTIVATION and tensor.spec.qtype == INT8 for tensor in tensors)
    return named and signed


def _with_followers(
    nodes: Iterable[ir.Node], floats: Mapping[str, str], ops: Mapping[str, OpSupport]
) -> dict[str, str]:
    """What the guard leaves float, with the biases of products among it, and the clips behind.

    A clip that stood alone would be quantized with the range that its product collapsed with.
    """
    found = dict(floats)
    for node in nodes:
        if node.name not in floats:
            continue
        add, reason = linear_add(node), floats[node.name or ""]
        tail = node if add is None else add[0]
        if add is not None:
            found.setdefault(tail.name or "", f"the product before it stays float: {reason}")
        reader = only_reader(tail.outputs[0])
        support = ops.get(operator_key(reader[0])) if reader is not None else None
        if reader is not None and support is not None and support.kernel is Kernel.CLIPS:
            found.setdefault(reader[0].name or "", f"the node before it stays float: {reason}")
    return found


def _with_ops(target: Target, rules: PlanRules) -> Target:
    """The target with its operators of the form that is asked for, and with the weights that are asked for."""
    if rules.form not in target.forms:
        known = ", ".join(form.value for form in target.forms)
        raise OptionError(
            f"quant_format: target {target.name} has no operators in {rules.form.value} form; it has {known}.",
            option="quant_format",
        )
    ops = target.forms[rules.form]
    if not rules.dynamic_matmul:
        ops = {name: replace(support, dynamic_weight=False) for name, support in ops.items()}
    if rules.weight != target.weight:
        ops = {name: replace(support, weight_spec=None) for name, support in ops.items()}
    return replace(target, ops=ops)


def _not_requested(nodes: Iterable[ir.Node], target: Target, rules: PlanRules) -> dict[str, str]:
    """The nodes whose integer kernels are so slow that a user must ask for them."""
    slow = {key for key, support in target.ops.items() if support.on_request} - set(rules.selection.op_types)
    reason = "its integer kernel is slower than the float one; op_types_to_quantize can ask for it"
    return {node.name or "": reason for node in nodes if operator_key(node) in slow}


def _enters_bodies(target: Target, rules: PlanRules) -> bool:
    """Whether nodes in bodies of If, Loop and Scan are planned; rules on positions are not followed into them."""
    return rules.bodies and not target.positions


def _in_bodies(nodes: Iterable[ir.Node]) -> list[Skip]:
    return [
        Skip(inner.name or "", inner.op_type, f"in a body of {node.op_type} {node.name!r}, which stays float")
        for node in nodes
        for body in subgraphs(node)
        for inner in body.all_nodes()
        if has_float_edge(inner)
    ]


def _check_overrides(model: ir.Model, rules: PlanRules) -> None:
    if not rules.overrides:
        return
    present = values_by_name(model)
    nodes = {node.name or "" for node in model.graph.all_nodes()}
    for name, override in rules.overrides.items():
        if name not in present:
            raise OptionError(
                f"TensorQuantOverrides: {name!r} is not present in the model{nearest(name, present)}.",
                option="TensorQuantOverrides",
            )
        for reader in override.conversion.readers if override.conversion else ():
            if reader not in nodes:
                raise OptionError(
                    f"TensorQuantOverrides: {name!r} is to be converted for {reader!r}, which is no node of the model"
                    f"{nearest(reader, nodes)}.",
                    option="TensorQuantOverrides",
                )
