"""From the command line's options to the arguments of ``vqonnx.api``."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from vqonnx.cli.options import ElementType, Format, Method
from vqonnx.errors import OptionError
from vqonnx.planning.rules import Pattern
from vqonnx.quantizers.types import CalibrationMethod, QuantFormat, QuantType, VitisQuantFormat


class PlanArguments(TypedDict):
    """The arguments that ``quantize_static`` and ``plan`` share."""

    preset: str | None
    target: str | None
    quant_format: QuantFormat | VitisQuantFormat
    nodes_to_exclude: list[str] | None
    nodes_to_quantize: list[str] | None
    op_types_to_quantize: list[str] | None
    per_channel: bool | None
    activation_type: QuantType | None
    weight_type: QuantType | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """The options of both commands, as typed by the user; None where nothing was."""

    preset: str | None
    target: str | None
    form: Format
    exclude: list[str] | None
    nodes: list[str] | None
    op_types: list[str] | None
    per_channel: bool | None
    activation_type: ElementType | None
    weight_type: ElementType | None

    def arguments(self) -> PlanArguments:
        """The library's own values."""
        return PlanArguments(
            preset=self.preset,
            target=self.target,
            quant_format=_quant_format(self.form),
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


def _quant_format(form: Format) -> QuantFormat | VitisQuantFormat:
    return VitisQuantFormat.FixNeuron if form is Format.FIX_NEURON else QuantFormat.of(form.value)


def _quant_type(element: ElementType | None) -> QuantType | None:
    return None if element is None else QuantType.of(f"Q{element.value}")


def providers_of(names: Sequence[str] | None) -> tuple[str, ...]:
    """The execution providers; the CPU's where none is named."""
    return tuple(names) if names else ("CPUExecutionProvider",)


def key_values(texts: Sequence[str] | None, option: str = "--option") -> dict[str, object]:
    """``["damping=0.05", "clip=false"]`` as ``{"damping": 0.05, "clip": False}``.

    Raises:
        OptionError: There is no "=" in one.
    """
    found: dict[str, object] = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise OptionError(f"{option}: {text!r} is not of the form KEY=VALUE.", option=option)
        found[key.strip()] = _value(value.strip())
    return found


def layer_settings(texts: Sequence[str] | None) -> dict[Pattern, dict[str, object]]:
    """``["*down*:bits=8,block_size=64"]`` as ``{"*down*": {"bits": 8, "block_size": 64}}``.

    Raises:
        OptionError: One has another form.
    """
    found: dict[Pattern, dict[str, object]] = {}
    for text in texts or ():
        pattern, colon, settings = text.rpartition(":")  # "op:Gather:bits=8" and "re:.*" have colons of their own
        if not colon or not pattern:
            raise OptionError(
                f"--layer: {text!r} is not of the form PATTERN:KEY=VALUE,KEY=VALUE, such as '*down*:bits=8'.",
                option="--layer",
            )
        found[pattern] = key_values(settings.split(","), "--layer")
    return found


def _value(text: str) -> object:
    """A number or a truth value as typed, else the text."""
    try:
        return json.loads(text.lower())
    except json.JSONDecodeError:
        return text
