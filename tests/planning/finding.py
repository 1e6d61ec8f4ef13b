"""Layers and plans of a model as the flow makes them."""

from typing import Any

import onnx
import onnx_ir as ir

from vqonnx.core.weight_plan import WeightOnlyPlan
from vqonnx.graph.io import load
from vqonnx.planning.weights.layers import Layer, find_layers
from vqonnx.planning.weights.plan import plan_weights
from vqonnx.planning.weights.rules import WeightRules
from vqonnx.stages.weights.prepare import prepare_weights


def found_in(proto: onnx.ModelProto, *, requantize: bool = False) -> tuple[ir.Model, list[Layer], dict[str, str]]:
    """The prepared model, its layers, and why other nodes are none, by name."""
    model = load(proto)
    prepare_weights(model)
    layers, skips = find_layers(model, requantize=requantize)
    assert len({skip.node for skip in skips}) == len(skips)
    return model, layers, {skip.node: skip.reason for skip in skips}


def plan_of(proto: onnx.ModelProto, *, known: tuple[str, ...] = (), **rules: Any) -> WeightOnlyPlan:
    """The plan for a model and ``WeightRules(**rules)``."""
    model = load(proto)
    prepare_weights(model)
    return plan_weights(*find_layers(model), WeightRules(**rules), known)
