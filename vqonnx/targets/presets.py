"""Presets: names for a target with types, symmetry and granularity; data only.

The names are AMD Quark's; what each gives is listed in README.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from vqonnx.errors import OptionError, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Arguments of ``quantize_static``; what the caller gives wins.

    Attributes:
        name: What users type.
        description: One line for ``vqonnx presets``.
        target: Name of the target.
        activation: Element type of activations; None: the target's.
        weight: Element type of weights; None: the target's.
        per_channel: One scale an output channel for weights; None: the target's choice.
        options: Entries of ``extra_options``.
    """

    name: str
    description: str
    target: str = "vitis"
    activation: str | None = None
    weight: str | None = None
    per_channel: bool | None = None
    options: Mapping[str, object] = field(default_factory=dict)


_ASYMMETRIC = MappingProxyType({"ActivationSymmetric": False})
_SYMMETRIC = MappingProxyType({"ActivationSymmetric": True})


def _one_type(name: str, qtype: str, description: str) -> Preset:
    options = {"IncludeCLE": False}
    return Preset(name=name, description=description, activation=qtype, weight=qtype, options=options)


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset(
                name="xint8",
                target="vitis-npu-cnn",
                description="int8 and power-of-two scales throughout, one a tensor, biases too: the NPU's CNN form",
            ),
            Preset(
                name="a8w8",
                activation="QInt8",
                weight="QInt8",
                options=_SYMMETRIC,
                description="int8 symmetric activations and weights, float scales, one a tensor; int32 biases",
            ),
            Preset(
                name="a16w8",
                activation="QInt16",
                weight="QInt8",
                per_channel=True,
                options={**_SYMMETRIC, "IncludeCLE": False},
                description="int16 symmetric activations, int8 weights with a scale a channel; int32 biases",
            ),
            Preset(
                name="s8s8",
                activation="QInt8",
                weight="QInt8",
                options=_ASYMMETRIC,
                description="int8 asymmetric activations, int8 weights, float scales; int32 biases",
            ),
            Preset(
                name="u8s8",
                activation="QUInt8",
                weight="QInt8",
                options=_ASYMMETRIC,
                description="uint8 asymmetric activations, int8 weights, float scales; int32 biases",
            ),
            Preset(
                name="s16s8",
                activation="QInt16",
                weight="QInt8",
                options=_SYMMETRIC,
                description="int16 symmetric activations, int8 weights, float scales, one a tensor; int32 biases",
            ),
            Preset(
                name="u16s8",
                activation="QUInt16",
                weight="QInt8",
                options=_ASYMMETRIC,
                description="uint16 asymmetric activations, int8 weights, float scales; int32 biases",
            ),
            _one_type("bf16", "QBFloat16", "bfloat16 everywhere, biases too: pairs of Cast"),
            _one_type("bfp16", "QBFP16", "blocks of 8 with one exponent, 8 bits an element; float biases"),
            _one_type("mx9", "QMX9", "blocks of 16, microexponents by pairs, 8 bits an element; float biases"),
            _one_type("mx6", "QMX6", "blocks of 16, microexponents by pairs, 5 bits an element; float biases"),
            _one_type("mx4", "QMX4", "blocks of 16, microexponents by pairs, 3 bits an element; float biases"),
            _one_type("mxfp8_e4m3", "QMXFP8_E4M3", "OCP MX, blocks of 32 float8e4m3; float biases"),
            _one_type("mxfp8_e5m2", "QMXFP8_E5M2", "OCP MX, blocks of 32 float8e5m2; float biases"),
            _one_type("mxfp6_e3m2", "QMXFP6_E3M2", "OCP MX, blocks of 32 float6e3m2; float biases"),
            _one_type("mxfp6_e2m3", "QMXFP6_E2M3", "OCP MX, blocks of 32 float6e2m3; float biases"),
            _one_type("mxfp4", "QMXFP4_E2M1", "OCP MX, blocks of 32 float4e2m1; float biases"),
            _one_type("mxint8", "QMXINT8", "OCP MX, blocks of 32 int8 with 6 fractional bits; float biases"),
        )
    }
)
"""By name."""


def get_preset(name: str) -> Preset:
    """The preset of that name, in any case.

    Raises:
        OptionError: There is none.
    """
    found = PRESETS.get(name.lower())
    if found is None:
        raise OptionError(
            f"preset: {name!r} is none{nearest(name.lower(), PRESETS)}. Known are {', '.join(PRESETS)}.",
            option="preset",
        )
    return found
