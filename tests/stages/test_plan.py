"""The plan over whole models: everything float is planned or skipped, and what is planned fits together."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import onnx_ir as ir
import pytest

from models.control import if_captures
from models.matmuls import linear_bias, two_activations
from models.registry import load as load_cases
from tests.quantizers.flow import EAGER, plan_of, prepared, reasons
from vqonnx.core.plan import Plan, Role
from vqonnx.core.target import Target
from vqonnx.errors import OptionError
from vqonnx.graph.walk import constant_tensor, nodes_by_name, values_by_name
from vqonnx.planning.eligible import has_float_edge
from vqonnx.quantizers.options import QuantizerOptions
from vqonnx.stages.plan import make_plan
from vqonnx.targets.cpu import CPU_X86_VNNI
from vqonnx.targets.directml import DIRECTML

CASES = load_cases()
TARGETS = {target.name: target for target in (CPU_X86_VNNI, DIRECTML, EAGER)}


@cache
def float_model(case: str) -> ir.Model:
    return prepared(CASES[case].build(), QuantizerOptions.of(target=EAGER))


def planned(case: str, target: Target, *, everything: bool) -> Plan:
    options = QuantizerOptions.of(target=target, extra_options={"ForceQuantizeNoInputCheck": everything})
    return make_plan(float_model(case), target, options.rules)


@pytest.mark.parametrize("case", list(CASES))
def test_every_float_node_is_planned_or_skipped_with_a_reason(case: str) -> None:
    expected = sorted({str(node.name) for node in float_model(case).graph.all_nodes() if has_float_edge(node)})
    for target, everything in itertools.product(TARGETS, (False, True)):
        plan = planned(case, TARGETS[target], everything=everything)
        skipped = [skip.node for skip in plan.skips]
        assert sorted([*plan.nodes, *skipped]) == expected, target
        assert all(skip.reason and skip.op_type for skip in plan.skips)
        assert plan.target == target


@pytest.mark.parametrize("case", list(CASES))
def test_keys_and_groups_of_a_plan_fit_together(case: str) -> None:
    values = values_by_name(float_model(case))
    for target in TARGETS.values():
        check_keys_and_groups(planned(case, target, everything=True), values)


def check_keys_and_groups(plan: Plan, values: Mapping[str, ir.Value]) -> None:
    used = {key for node in plan.nodes.values() for key in (*node.inputs, *node.outputs) if key is not None}
    assert used <= set(plan.tensors)
    for key, tensor in plan.tensors.items():
        assert tensor.key == key
        assert plan.tensors[tensor.group].group == tensor.group  # a group's key stands for itself
        assert (tensor.role is Role.ACTIVATION) == (constant_tensor(values[tensor.tensor]) is None)
        assert (tensor.scale_of is not None) == (tensor.role is Role.BIAS)
    for group in {tensor.group for tensor in plan.activations()}:
        members = [tensor for tensor in plan.activations() if tensor.group == group]
        assert any(tensor.method or tensor.bounds or tensor.fixed for tensor in members)


@pytest.mark.parametrize("case", list(CASES))
def test_a_planned_node_matches_its_node_in_the_graph(case: str) -> None:
    plan = planned(case, EAGER, everything=True)
    nodes = nodes_by_name(float_model(case))
    for name, node_plan in plan.nodes.items():
        node = nodes[name]
        assert (node_plan.op_type, len(node_plan.outputs)) == (node.op_type, len(node.outputs))
        for key, value in [
            *zip(node_plan.inputs, node.inputs, strict=True),
            *zip(node_plan.outputs, node.outputs, strict=True),
        ]:
            assert key is None or value is None or plan.tensors[key].tensor == value.name


@pytest.mark.parametrize("options", [{"extra_options": {"EnableSubgraph": False}}, {"target": "vitis-npu-cnn"}])
def test_bodies_that_stay_float_say_so(options: dict[str, Any]) -> None:
    found = reasons(plan_of(if_captures(), **options))
    bodies = {name: reason for name, reason in found.items() if "/" in name}
    assert {name.split("/")[-1] for name in bodies} == {"MatMul_0", "Add_1"}
    assert all(reason.startswith("in a body of If '") and "which stays float" in reason for reason in bodies.values())


def test_what_the_guard_leaves_float_has_its_reason() -> None:
    options = QuantizerOptions.of(target=EAGER)
    model = prepared(linear_bias(), options)
    first = next(iter(make_plan(model, EAGER, options.rules).nodes))
    plan = make_plan(model, EAGER, replace(options.rules, floats={first: "it collapsed"}))
    assert reasons(plan)[first] == "it collapsed"
    assert first not in plan.nodes
    everything = replace(options.rules, floats={first: "it collapsed"}, everything=True)
    assert reasons(make_plan(model, EAGER, everything))["Add_1"] == "the product before it stays float: it collapsed"


def test_an_override_of_an_unknown_tensor_is_an_error_that_offers_the_nearest() -> None:
    with pytest.raises(OptionError) as caught:
        plan_of(linear_bias(), extra_options={"TensorQuantOverrides": {"a_ww": [{"symmetric": True}]}})
    assert str(caught.value).startswith("TensorQuantOverrides: 'a_ww' is not present in the model (did you mean 'a_w'")
    assert caught.value.option == "TensorQuantOverrides"


@pytest.mark.parametrize("only", [False, True])
def test_a_matmul_of_two_activations_is_quantized_where_the_target_can_and_nobody_objects(only: bool) -> None:
    plan = plan_of(two_activations(), DIRECTML, extra_options={"MatMulConstBOnly": only})
    assert bool(plan.nodes) is not only
    assert reasons(plan) == ({"MatMul_0": "its weight is computed at run time"} if only else {})
