"""Positions that a fixed-point device accepts, from the numbers that a quantizer's methods give."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from vqonnx.calibration.statistics.histogram import Histogram
from vqonnx.core.params import QuantParams
from vqonnx.core.plan import Plan, Role
from vqonnx.core.positions import PositionRule, Refinement
from vqonnx.planning.position_nodes import position_key
from vqonnx.stages.refine import refine_positions

if TYPE_CHECKING:
    from vqonnx.quantizers.base import BaseQuantizer


def start_params(quantizer: "BaseQuantizer") -> dict[str, QuantParams]:
    """Scale and zero point of every tensor with a position, by key, before any move.

    From ``calculate_quantization_params`` and ``constant_params``, so that overrides of both count.

    Raises:
        OptionError: An activation has no range.
        QuantRangeError: A range or a constant is not finite.
    """
    plan = quantizer.current_plan()
    params = dict(quantizer.calculate_quantization_params())
    for key, tensor in plan.tensors.items():
        if tensor.role is not Role.ACTIVATION and position_key(plan, key) is not None:
            params[key] = quantizer.constant_params(key, tensor.spec)
    return params


def refined_plan(
    quantizer: "BaseQuantizer", rules: Sequence[PositionRule], better: Mapping[str, QuantParams] | None = None
) -> tuple[Plan, Refinement]:
    """The quantizer's plan with every position where the device's rules hold; no code has been made yet.

    It starts from ``start_params``, and weighs moves by the histograms in ``tensors_range``.

    Args:
        quantizer: With ranges or statistics of all activations.
        rules: The device's, those that are switched on.
        better: Where some tensors start instead, by key: what ``stages.search_positions`` found.

    Raises:
        OptionError: An activation has no range.
        QuantRangeError: A range or a constant is not finite.
    """
    plan, params = quantizer.current_plan(), {**start_params(quantizer), **(better or {})}
    known = quantizer.tensors_range.items()
    histograms = {name: found.as_bins() for name, found in known if isinstance(found, Histogram)}
    return refine_positions(quantizer.model, plan, params, rules, histograms, quantizer.float_array)
