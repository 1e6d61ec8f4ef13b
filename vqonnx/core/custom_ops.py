"""The operators of domain com.amd.quark, version 1: names, attributes with their defaults, and what these mean.

Names, attributes and defaults are those that AMD Quark documents and that Vitis AI reads. In older models the domain is
com.vai.quantize, and the operators have other names. FixNeuron is of ai.onnx.contrib: vai_q_onnx of Vitis AI 3 writes
it (github.com/Xilinx/Vitis-AI, src/vai_quantizer/vai_q_onnx), and Vitis AI's compiler reads it with 8 bits.
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
CONTRIB_DOMAIN = "ai.onnx.contrib"
VERSION = 1

Attributes = Mapping[str, int | str]
E = TypeVar("E", bound=Enum)


@dataclass(frozen=True, slots=True)
class CustomOp:
    """An operator.

    Attributes:
        name: In ``domain``.
        old_name: In ``OLD_DOMAIN``; empty where it was never there.
        defaults: Every attribute with its default.
        domain: Where it is now.
    """

    name: str
    old_name: str
    defaults: Attributes
    domain: str = DOMAIN

    @property
    def qualified_names(self) -> tuple[str, ...]:
        """``domain::name`` of now, and of before."""
        old = (f"{OLD_DOMAIN}::{self.old_name}",) if self.old_name else ()
        return (f"{self.domain}::{self.name}", *old)


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

FIX_NEURON = CustomOp("FixNeuron", "", MappingProxyType({"bit_width": "8", "pos": "0"}), CONTRIB_DOMAIN)
"""(clip(round(x / scale) + zero_point) - zero_point) * scale; ``pos`` repeats -log2 of the scale. Both are texts."""

CUSTOM_OPS = {op.name: op for op in (QUANTIZE, DEQUANTIZE, BLOCK_FLOAT, MICROSCALING, FIX_NEURON)}
"""By name."""

_QUALIFIED = {name: op for op in CUSTOM_OPS.values() for name in op.qualified_names}
_ROUNDING = frozenset({BLOCK_FLOAT.name, MICROSCALING.name, FIX_NEURON.name})
_BITS = range(2, 33)


def custom_op(domain: str, name: str) -> CustomOp | None:
    """The operator of that domain and name; None if it is none of these."""
    return _QUALIFIED.get(f"{domain}::{name}")


def rounds(domain: str, name: str) -> bool:
    """Whether the operator of that domain and name quantizes and dequantizes at once, from float to float."""
    op = custom_op(domain, name)
    return op is not None and op.name in _ROUNDING


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


def fix_neuron_bits(attributes: Attributes) -> int:
    """Bits of the codes that ``FIX_NEURON`` rounds to.

    Raises:
        OptionError: An attribute is no number, or there is no such type.
    """
    given = {**FIX_NEURON.defaults, **attributes}
    for name, value in given.items():
        if name in FIX_NEURON.defaults and not str(value).removeprefix("-").isdecimal():
            raise OptionError(f"{name} {value!r} is no whole number", option=name)
    bits = int(given["bit_width"])
    if bits not in _BITS:
        raise OptionError(f"bit_width {bits} is not from {_BITS[0]} to {_BITS[-1]}", option="bit_width")
    return bits


def _member(kind: type[E], value: object, attribute: str) -> E:
    for member in kind:
        if member.value == value:
            return member
    known = ", ".join(repr(member.value) for member in kind)
    raise OptionError(f"unknown {attribute} {value!r}. Known are {known}.", option=attribute)
