"""Positions that a fixed-point device accepts, from the numbers that a quantizer's methods give."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import onnx_ir as ir

from vqonnx.calibration.statistics.histogram import Histogram
from vqonnx.core.params import QuantParams
from vqonnx.core.plan import Plan, Role
from vqonnx.core.positions import PositionRule, Refinement
from vqonnx.core.spec import QuantSpec
from vqonnx.planning.position_nodes import position_key
from vqonnx.quantizers.planned import Array
from vqonnx.stages.refine import refine_positions


class Start(Protocol):
    """What a quantizer class tells of where positions start; ``BaseQuantizer`` is one.

    Attributes:
        model: The float model.
        tensors_range: Range or statistic of each activation, by tensor name.
    """

    model: ir.Model
    tensors_range: dict[str, object]

    def current_plan(self) -> Plan:
        """The plan in use."""
        ...

    def calculate_quantization_params(self) -> dict[str, QuantParams]:
        """Scale and zero point of every planned activation, by key."""
        ...

    def constant_params(self, name: str, spec: QuantSpec) -> QuantParams:
        """Scale and zero point of a constant."""
        ...

    def float_array(self, name: str) -> Array:
        """The float constant of that name."""
        ...


def start_params(quantizer: Start) -> dict[str, QuantParams]:
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
    quantizer: Start, rules: Sequence[PositionRule], better: Mapping[str, QuantParams] | None = None
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
