"""Emit: write plan and solutions into a copy of the model."""

from collections.abc import Callable, Mapping

import onnx_ir as ir

from vqonnx.core.plan import Plan
from vqonnx.core.solution import Solutions
from vqonnx.core.target import Form
from vqonnx.emitters.captured import dequantize_in_bodies, quantize_captured
from vqonnx.emitters.qdq import emit_qdq
from vqonnx.emitters.qoperator import emit_qoperator
from vqonnx.graph.edit import remove_dead
from vqonnx.graph.io import load
from vqonnx.graph.walk import nodes
from vqonnx.transforms.repeated_pairs import join_pairs

TARGET_KEY = "vqonnx.target"

EMITTERS: Mapping[Form, Callable[[ir.Model, Plan, Solutions], None]] = {
    Form.QDQ: emit_qdq,
    Form.FIX_NEURON: emit_qdq,
    Form.QOPERATOR: emit_qoperator,
}
"""Each rewrites a private model in place."""


def emit(model: ir.Model, plan: Plan, solutions: Solutions) -> ir.Model:
    """A quantized copy of a prepared model, which itself stays as it is, in the plan's form; float tensors are shared.

    The target's name is stored in the metadata under ``vqonnx.target``.
    """
    quantized = load(model)
    was_quantized = any(node.op_type == "QuantizeLinear" for node in nodes(quantized))
    EMITTERS[plan.form](quantized, plan, solutions)
    if was_quantized:
        join_pairs(quantized)
    if dequantize_in_bodies(quantized, plan.nodes):
        remove_dead(quantized)
    quantize_captured(quantized)
    quantized.metadata_props[TARGET_KEY] = plan.target
    return quantized
