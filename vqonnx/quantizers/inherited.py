"""Scales that a partly quantized model brings along, as overrides: its codes then go on unchanged."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from vqonnx.core.qtype import QType
from vqonnx.graph.walk import constant
from vqonnx.planning.quantized import scales_of_pairs

_KEY = "TensorQuantOverrides"


def with_inherited_scales(
    extra_options: Mapping[str, object] | None, model: ir.Model, activation: QType
) -> dict[str, object]:
    """``extra_options`` with the scale and zero point of each value beside a pair; what the user fixes wins.

    Args:
        extra_options: The user's.
        model: The model as it came.
        activation: The type that activations get. Pairs of other types stay, and meet a pair of this one.
    """
    found: dict[str, list[dict[str, object]]] = {}
    for value, node in scales_of_pairs(model):
        scale, zero_point = (constant(node.inputs[i]) if len(node.inputs) > i else None for i in (1, 2))
        if scale is None or zero_point is None or scale.size != 1 or zero_point.dtype != activation.dtype:
            continue
        entry: dict[str, object] = {
            "scale": np.asarray(scale, np.float32).reshape(()),
            "zero_point": zero_point.reshape(()),
        }
        found.setdefault(value.name or "", [entry])
    given = (extra_options or {}).get(_KEY) or {}
    return {**(extra_options or {}), _KEY: {**found, **(given if isinstance(given, Mapping) else {})}}
