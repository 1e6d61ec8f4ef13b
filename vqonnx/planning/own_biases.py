"""Biases with a scale of their own, for devices that shift them to the accumulator's position."""

from dataclasses import replace

import numpy as np

from vqonnx.core.granularity import PerTensor
from vqonnx.core.plan import Plan, Role, TensorPlan
from vqonnx.core.spec import QuantSpec

_WIDE = 32
"""Bits of a type so fine that a bias on its scale would not fit 32 bits."""


def with_own_bias_scales(plan: Plan, spec: QuantSpec) -> Plan:
    """The plan with every bias quantized like a weight of its own, not on input_scale * weight_scale.

    Args:
        plan: A plan whose biases are int32.
        spec: What they become: int8 with one power-of-two scale on AMD's NPU.
    """
    tensors = {key: _own(tensor, spec) if tensor.role is Role.BIAS else tensor for key, tensor in plan.tensors.items()}
    return replace(plan, tensors=tensors)


def with_wide_biases(plan: Plan) -> Plan:
    """The plan with int32 biases on scales of their own, of the same grid, beside 32-bit activations or weights.

    On the accumulator's scale they would saturate, or the weight's scale would grow until nothing is left of it.
    """
    tensors = {
        key: _own(tensor, _wide_spec(plan, tensor)) if _is_beside_wide(plan, tensor) else tensor
        for key, tensor in plan.tensors.items()
    }
    return replace(plan, tensors=tensors)


def _wide_spec(plan: Plan, tensor: TensorPlan) -> QuantSpec:
    grids = {plan.tensors[key].spec.grid for key in tensor.scale_of or ()}
    grid = grids.pop() if len(grids) == 1 else tensor.spec.grid
    return replace(tensor.spec, granularity=PerTensor(), grid=grid)


def _own(tensor: TensorPlan, spec: QuantSpec) -> TensorPlan:
    fixed = None if spec.has_scale else (np.array(1.0), np.array(0))
    return replace(tensor, spec=spec, own_scale=True, fixed=fixed, repeats=1)


def _is_beside_wide(plan: Plan, tensor: TensorPlan) -> bool:
    if tensor.role is not Role.BIAS or tensor.scale_of is None:
        return False
    return any(plan.tensors[key].spec.qtype.bits >= _WIDE for key in tensor.scale_of)
