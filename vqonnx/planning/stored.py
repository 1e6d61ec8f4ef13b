"""Codes that a model brings along behind a DequantizeLinear: planned with their own numbers, and left as they are."""

import numpy as np
import onnx_ir as ir

from vqonnx.core.granularity import PerAxis, PerTensor
from vqonnx.core.plan import Role, TensorPlan
from vqonnx.core.qtype import QTYPES, Kind
from vqonnx.core.spec import QuantSpec
from vqonnx.graph.facts import int_attribute
from vqonnx.graph.walk import constant
from vqonnx.planning.rules import PlanRules

_WIDEST = 16


def stored_form(value: ir.Value, rules: PlanRules) -> TensorPlan | None:
    """The plan of a value that a DequantizeLinear makes of constant codes; None for any other, or where none is kept.

    Codes of 32 bits are a bias, and those in blocks belong to weights that no integer product takes.
    """
    node = value.producer()
    if (
        not rules.keep_stored
        or node is None
        or node.op_type != "DequantizeLinear"
        or int_attribute(node, "block_size", 0)
    ):
        return None
    codes, scale, zero = (constant(node.inputs[i]) if i < len(node.inputs) else None for i in range(3))
    qtype = None if codes is None else next((one for one in QTYPES.values() if one.dtype == codes.dtype), None)
    if codes is None or scale is None or qtype is None or qtype.kind is not Kind.INTEGER or qtype.bits > _WIDEST:
        return None
    zeros = np.zeros(scale.shape, np.int64) if zero is None else zero.astype(np.int64)
    axis = int_attribute(node, "axis", 1) % max(codes.ndim, 1)
    granularity = PerTensor() if scale.size == 1 else PerAxis(axis)
    spec = QuantSpec(qtype=qtype, symmetric=not zeros.any() and qtype.signed, granularity=granularity)
    name = value.name or ""
    return TensorPlan(key=name, tensor=name, role=Role.ACTIVATION, spec=spec, fixed=(scale, zeros), is_stored=True)
