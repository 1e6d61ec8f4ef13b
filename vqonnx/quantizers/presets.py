"""A preset's values in the places of arguments that the caller left out."""

from collections.abc import Mapping
from dataclasses import dataclass

from vqonnx.core.target import Target
from vqonnx.quantizers.types import QuantType
from vqonnx.targets.presets import get_preset


@dataclass(frozen=True, slots=True, kw_only=True)
class PresetArguments:
    """The arguments of ``quantize_static`` that a preset can give."""

    target: Target | str | None = None
    activation_type: QuantType | None = None
    weight_type: QuantType | None = None
    per_channel: bool | None = None
    extra_options: Mapping[str, object] | None = None


def with_preset(
    name: str | None,
    *,
    target: Target | str | None,
    activation_type: QuantType | None,
    weight_type: QuantType | None,
    per_channel: bool | None,
    extra_options: Mapping[str, object] | None,
) -> PresetArguments:
    """The arguments, and the preset's where one is None; its options under those that were given.

    Raises:
        OptionError: There is no such preset.
    """
    given = PresetArguments(
        target=target,
        activation_type=activation_type,
        weight_type=weight_type,
        per_channel=per_channel,
        extra_options=extra_options,
    )
    if name is None:
        return given
    preset = get_preset(name)
    return PresetArguments(
        target=preset.target if target is None else target,
        activation_type=_type(preset.activation) if activation_type is None else activation_type,
        weight_type=_type(preset.weight) if weight_type is None else weight_type,
        per_channel=preset.per_channel if per_channel is None else per_channel,
        extra_options={**preset.options, **(extra_options or {})},
    )


def _type(name: str | None) -> QuantType | None:
    return None if name is None else QuantType.of(name)
