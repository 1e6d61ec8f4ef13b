"""Ranges of the tensors that a graph gives away."""

from dataclasses import replace

import onnx_ir as ir

from vqonnx.core.plan import Plan
from vqonnx.core.spec import RangeMethod

_CUTTING = frozenset({RangeMethod.MEAN})
_KEEP_ORDER = frozenset(
    {
        "ArgMax", "Cast", "Flatten", "Identity", "LogSoftmax", "Reshape", "Sigmoid", "Slice", "Softmax", "Split",
        "Squeeze", "TopK", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Operators behind which the largest value still is the largest, or is told."""


def with_whole_outputs(model: ir.Model, plan: Plan) -> Plan:
    """The plan with least squared error, not the mean of the samples' ends, for the ranges of what becomes an output.

    The mean cuts the largest values of every second sample. Inside, that costs little; of a classifier's output these
    are the answers, and cut to one code they tie: mobilenet_v2, int8 with one scale a tensor, agrees with float on 45 %
    of the images at 12 dB, and on 89 % at 13 dB with its output whole.
    """
    names = _given_away(model)
    groups = {tensor.group for tensor in plan.activations() if tensor.tensor in names}
    tensors = {
        key: replace(tensor, method=RangeMethod.MSE) if tensor.group in groups and tensor.method in _CUTTING else tensor
        for key, tensor in plan.tensors.items()
    }
    return replace(plan, tensors=tensors)


def _given_away(model: ir.Model) -> set[str]:
    """Names of the outputs, and of the values that the order of an output's elements comes from."""
    names: set[str] = set()
    for output in model.graph.outputs:
        value: ir.Value | None = output
        while value is not None:
            names.add(value.name or "")
            maker = value.producer()
            value = maker.inputs[0] if maker is not None and maker.op_type in _KEEP_ORDER else None
    return names
