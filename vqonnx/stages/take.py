"""Take: a model in the form that planning needs, with its nodes as they are."""

import time

import onnx_ir as ir

from vqonnx.graph.names import ensure_unique_names
from vqonnx.graph.walk import nodes, values
from vqonnx.stages.prepare import Prepared, settle
from vqonnx.transforms.constants import lift_constants
from vqonnx.transforms.gemm import normalize_gemms
from vqonnx.transforms.shapes import infer_shapes


def take(model: ir.Model, *, opset: int, default_type: int | None = None) -> Prepared:
    """Give names and types to a model, and make its constants initializers, in place; nothing is folded or fused.

    Factors of a Gemm are the exception: they go into its constants, since no bias at input scale x weight scale
    could carry them.

    Args:
        model: A private model (``graph.io.load``).
        opset: Least opset of the default domain.
        default_type: Type of tensors that inference leaves without one, by ONNX's number.

    Raises:
        UnsupportedModelError: The opset cannot be raised.
    """
    started = time.perf_counter()
    ensure_unique_names(model)
    before = {node.name for node in nodes(model) if node.name}
    counts = {
        **settle(model, opset),
        "constants made initializers": lift_constants(model, 0),
        "Gemms normalized": normalize_gemms(model),
    }
    ensure_unique_names(model)
    infer_shapes(model)
    if default_type is not None:
        counts["tensors given the default type"] = _give_types(model, ir.DataType(default_type))
    return Prepared(
        model=model,
        notes=tuple(f"{name}: {count}" for name, count in counts.items() if count),
        folded=frozenset(before - {node.name for node in nodes(model)}),
        seconds=time.perf_counter() - started,
    )


def _give_types(model: ir.Model, dtype: ir.DataType) -> int:
    untyped = [value for value in values(model) if value.type is None]
    for value in untyped:
        value.type = ir.TensorType(dtype)
    return len(untyped)
