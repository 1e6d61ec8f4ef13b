"""From the command line's options to the arguments of ``vqonnx.api``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from vqonnx.cli.options import ElementType, Method
from vqonnx.quantizers.types import CalibrationMethod, QuantType


class PlanArguments(TypedDict):
    """The arguments that ``quantize_static`` and ``plan`` share."""

    target: str
    nodes_to_exclude: list[str] | None
    nodes_to_quantize: list[str] | None
    op_types_to_quantize: list[str] | None
    per_channel: bool | None
    activation_type: QuantType | None
    weight_type: QuantType | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """The options of both commands, as typed by the user; None where nothing was."""

    target: str
    exclude: list[str] | None
    nodes: list[str] | None
    op_types: list[str] | None
    per_channel: bool | None
    activation_type: ElementType | None
    weight_type: ElementType | None

    def arguments(self) -> PlanArguments:
        """The library's own values."""
        return PlanArguments(
            target=self.target,
            nodes_to_exclude=self.exclude,
            nodes_to_quantize=self.nodes,
            op_types_to_quantize=self.op_types,
            per_channel=self.per_channel,
            activation_type=_quant_type(self.activation_type),
            weight_type=_quant_type(self.weight_type),
        )


def calibration_method(method: Method | None) -> CalibrationMethod | None:
    """The library's own member: "moving-average" is MovingAverage."""
    return None if method is None else CalibrationMethod.of(method.value.replace("-", ""))


def _quant_type(element: ElementType | None) -> QuantType | None:
    return None if element is None else QuantType.of(f"Q{element.value}")


def providers_of(names: Sequence[str] | None) -> tuple[str, ...]:
    """The execution providers; the CPU's where none is named."""
    return tuple(names) if names else ("CPUExecutionProvider",)
