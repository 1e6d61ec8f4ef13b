"""Biases with a scale of their own, for devices that shift them to the accumulator's position."""

from dataclasses import replace

import numpy as np

from vqonnx.core.plan import Plan, Role
from vqonnx.core.spec import QuantSpec


def with_own_bias_scales(plan: Plan, spec: QuantSpec) -> Plan:
    """The plan with every bias quantized like a weight of its own, not on input_scale * weight_scale.

    Args:
        plan: A plan whose biases are int32.
        spec: What they become: int8 with one power-of-two scale on AMD's NPU.
    """
    fixed = None if spec.has_scale else (np.array(1.0), np.array(0))
    tensors = {
        key: replace(tensor, spec=spec, own_scale=True, fixed=fixed) if tensor.role is Role.BIAS else tensor
        for key, tensor in plan.tensors.items()
    }
    return replace(plan, tensors=tensors)
