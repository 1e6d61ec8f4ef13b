"""The operators of domain com.amd.quark, version 1: names, attributes with their defaults, and what these mean.

Names, attributes and defaults are those that AMD Quark documents and that Vitis AI reads. In older models the domain is
com.vai.quantize, and the operators have other names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import TypeVar

from vqonnx.core.block_formats import (
    ELEMENT_FORMATS,
    BlockFloatFormat,
    BlockFloatMethod,
    BlockFormat,
    MicroscalingFormat,
    Rounding,
)
from vqonnx.errors import OptionError, nearest

DOMAIN = "com.amd.quark"
OLD_DOMAIN = "com.vai.quantize"
VERSION = 1

Attributes = Mapping[str, int | str]
E = TypeVar("E", bound=Enum)


@dataclass(frozen=True, slots=True)
class CustomOp:
    """An operator.

    Attributes:
        name: In ``DOMAIN``.
        old_name: In ``OLD_DOMAIN``.
        defaults: Every attribute with its default.
    """

    name: str
    old_name: str
    defaults: Attributes


def _op(name: str, old_name: str, **defaults: int | str) -> CustomOp:
    return CustomOp(name, old_name, MappingProxyType(defaults))


QUANTIZE = _op("ExtendedQuantizeLinear", "VitisQuantizeLinear", axis=1)
DEQUANTIZE = _op("ExtendedDequantizeLinear", "VitisDequantizeLinear", axis=1)
BLOCK_FLOAT = _op(
    "BFPQuantizeDequantize",
    "BFPFixNeuron",
    bfp_method="to_bfp",
    axis=1,
    bit_width=16,
    block_size=8,
    rounding_mode=0,
    sub_block_size=2,
    sub_block_shift_bits=1,
    convert_to_bfloat_before_bfp=0,
    use_compiler_version_cpu_kernel=0,
)
MICROSCALING = _op("MXQuantizeDequantize", "MXFixNeuron", element_dtype="int8", axis=1, block_size=32, rounding_mode=0)

CUSTOM_OPS = {op.name: op for op in (QUANTIZE, DEQUANTIZE, BLOCK_FLOAT, MICROSCALING)}
"""By name in ``DOMAIN``."""

_OLD = {op.old_name: op for op in CUSTOM_OPS.values()}


def custom_op(domain: str, name: str) -> CustomOp | None:
    """The operator of that domain and name; None if it is none of these."""
    return {DOMAIN: CUSTOM_OPS, OLD_DOMAIN: _OLD}.get(domain, {}).get(name)


def block_op(fmt: BlockFormat) -> CustomOp:
    """The operator that quantizes to ``fmt`` and back."""
    return BLOCK_FLOAT if isinstance(fmt, BlockFloatFormat) else MICROSCALING


def attributes_of(fmt: BlockFormat, axis: int) -> dict[str, int | str]:
    """All attributes of a node of ``block_op(fmt)`` that lays blocks along ``axis``."""
    if isinstance(fmt, MicroscalingFormat):
        return {
            "element_dtype": fmt.element.name,
            "axis": axis,
            "block_size": fmt.block_size,
            "rounding_mode": int(fmt.rounding),
        }
    return {
        "bfp_method": fmt.method.value,
        "axis": axis,
        "bit_width": fmt.bit_width,
        "block_size": fmt.block_size,
        "rounding_mode": int(fmt.rounding),
        "sub_block_size": fmt.sub_block_size,
        "sub_block_shift_bits": fmt.sub_block_shift_bits,
        "convert_to_bfloat_before_bfp": int(fmt.from_bfloat16),
        "use_compiler_version_cpu_kernel": int(fmt.twos_complement),
    }


def block_float_of(attributes: Attributes) -> BlockFloatFormat:
    """The format that the attributes of ``BLOCK_FLOAT`` ask for; absent ones have their defaults.

    Raises:
        OptionError: An attribute has a value that means nothing.
    """
    given = {**BLOCK_FLOAT.defaults, **attributes}
    method = "to_bfp_prime" if given["bfp_method"] == "to_bfp_prime_shared" else given["bfp_method"]  # its older name
    return BlockFloatFormat(
        name="",
        method=_member(BlockFloatMethod, method, "bfp_method"),
        bit_width=int(given["bit_width"]),
        block_size=int(given["block_size"]),
        rounding=_member(Rounding, given["rounding_mode"], "rounding_mode"),
        sub_block_size=int(given["sub_block_size"]),
        sub_block_shift_bits=int(given["sub_block_shift_bits"]),
        from_bfloat16=bool(given["convert_to_bfloat_before_bfp"]),
        twos_complement=bool(given["use_compiler_version_cpu_kernel"]) and method == "to_bfp",
    )


def microscaling_of(attributes: Attributes) -> MicroscalingFormat:
    """The format that the attributes of ``MICROSCALING`` ask for; absent ones have their defaults.

    Raises:
        OptionError: An attribute has a value that means nothing.
    """
    given = {**MICROSCALING.defaults, **attributes}
    element = str(given["element_dtype"])
    if element not in ELEMENT_FORMATS:
        raise OptionError(
            f"unknown element_dtype {element!r}{nearest(element, ELEMENT_FORMATS)}", option="element_dtype"
        )
    return MicroscalingFormat(
        name="",
        element=ELEMENT_FORMATS[element],
        block_size=int(given["block_size"]),
        rounding=_member(Rounding, given["rounding_mode"], "rounding_mode"),
    )


def _member(kind: type[E], value: object, attribute: str) -> E:
    for member in kind:
        if member.value == value:
            return member
    known = ", ".join(repr(member.value) for member in kind)
    raise OptionError(f"unknown {attribute} {value!r}. Known are {known}.", option=attribute)
