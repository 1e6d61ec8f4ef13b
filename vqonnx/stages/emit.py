"""Emit: write plan and solutions into a copy of the model."""

import onnx_ir as ir

from vqonnx.core.plan import Plan
from vqonnx.core.solution import Solutions
from vqonnx.emitters.qdq import emit_qdq
from vqonnx.graph.io import load

TARGET_KEY = "vqonnx.target"


def emit(model: ir.Model, plan: Plan, solutions: Solutions) -> ir.Model:
    """A quantized copy of a prepared model, which itself stays as it is; tensors left float are shared.

    The target's name is stored in the metadata under ``vqonnx.target``.
    """
    quantized = load(model)
    emit_qdq(quantized, plan, solutions)
    quantized.metadata_props[TARGET_KEY] = plan.target
    return quantized
