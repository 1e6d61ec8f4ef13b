"""Formats whose elements share an exponent by blocks: block floating point and microscaling, as tables by name."""

import math
from dataclasses import dataclass
from enum import Enum, IntEnum

import ml_dtypes
import numpy as np

from vqonnx.errors import OptionError


class Rounding(IntEnum):
    """What becomes of a number halfway between two representable ones; the values are those of the attribute."""

    HALF_AWAY = 0
    """From zero: 2.5 -> 3, -2.5 -> -3."""
    HALF_UP = 1
    """Towards +infinity: 2.5 -> 3, -2.5 -> -2."""
    HALF_EVEN = 2
    """To the even neighbour: 2.5 -> 2, 3.5 -> 4."""


class BlockFloatMethod(Enum):
    """How block floating point shares exponents; the values are those of the attribute."""

    TO_BFP = "to_bfp"
    """One exponent a block."""
    TO_BFP_PRIME = "to_bfp_prime"
    """One exponent a block, and a few bits a sub-block by which it is smaller there (microexponents)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFloatFormat:
    """Signed mantissas without hidden bit under a shared 8-bit exponent.

    The microexponents of ``TO_BFP_PRIME`` are those of Rouhani et al. 2023, arXiv:2302.08007.

    Attributes:
        name: What it is called.
        method: Whether sub-blocks have microexponents.
        bit_width: Sign, mantissa and the 8 bits of the shared exponent together: the mantissa has ``bit_width - 9``.
        block_size: Neighbours that share an exponent.
        sub_block_size: Neighbours within a block that share a microexponent; of ``TO_BFP_PRIME`` only.
        sub_block_shift_bits: Bits of a microexponent; of ``TO_BFP_PRIME`` only.
        rounding: Of mantissas that lie halfway.
        from_bfloat16: Round to bfloat16 first.
        twos_complement: As AMD's compiler computes: mantissas reach -2^m, and a block whose largest element would round
            to 2^m takes the next exponent instead of saturating; of ``TO_BFP`` only.

    Raises:
        OptionError: The parts do not fit together.
    """

    name: str
    method: BlockFloatMethod = BlockFloatMethod.TO_BFP
    bit_width: int = 16
    block_size: int = 8
    sub_block_size: int = 2
    sub_block_shift_bits: int = 1
    rounding: Rounding = Rounding.HALF_EVEN
    from_bfloat16: bool = False
    twos_complement: bool = False

    def __post_init__(self) -> None:
        _require(10 <= self.bit_width <= 32, "bit_width", "from 10 to 32: 9 bits and the mantissa", self.bit_width)
        _require(self.block_size >= 1, "block_size", "at least 1", self.block_size)
        if self.method is BlockFloatMethod.TO_BFP_PRIME:
            divides = self.sub_block_size >= 1 and self.block_size % self.sub_block_size == 0
            _require(divides, "sub_block_size", f"a divisor of the block size {self.block_size}", self.sub_block_size)
            bits = self.sub_block_shift_bits
            _require(0 <= bits <= 8, "sub_block_shift_bits", "from 0 to 8", bits)
            _require(not self.twos_complement, "twos_complement", "False where sub-blocks have microexponents", True)

    @property
    def mantissa_bits(self) -> int:
        """Bits of an element's magnitude."""
        return self.bit_width - 9

    @property
    def bits(self) -> int:
        """Bits that an element takes by itself: sign and mantissa."""
        return 1 + self.mantissa_bits

    @property
    def qmin(self) -> int:
        """Smallest mantissa."""
        return -self.qmax - self.twos_complement

    @property
    def qmax(self) -> int:
        """Largest mantissa."""
        return (1 << self.mantissa_bits) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementFormat:
    """A small number format, with subnormals and without infinities in use.

    Attributes:
        name: As the attribute ``element_dtype`` spells it.
        exponent_bits: 0 for fixed point.
        mantissa_bits: Bits behind the binary point.
        largest: The largest finite number.
        smallest: The smallest.
        dtype: The numpy type of its codes; those of ``int8`` stand for multiples of 1/64.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    largest: float
    smallest: float
    dtype: np.dtype[np.generic]

    @property
    def max_exponent(self) -> int:
        """``floor(log2(largest))``."""
        return math.frexp(self.largest)[1] - 1

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal number, below which the distance of neighbours stays the same."""
        return 2 - (1 << (self.exponent_bits - 1)) if self.exponent_bits else 0

    @property
    def step(self) -> float:
        """The smallest positive number."""
        return math.ldexp(1.0, self.min_exponent - self.mantissa_bits)

    @property
    def bits(self) -> int:
        """Bits that an element takes; fixed point has one before the binary point."""
        return 1 + max(self.exponent_bits, 1) + self.mantissa_bits


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroscalingFormat:
    """Small floats, or 8-bit fixed point, under a shared power of two (OCP Microscaling Formats v1.0).

    Attributes:
        name: What it is called.
        element: The format of the elements.
        block_size: Neighbours that share a scale.
        rounding: Of elements that lie halfway; the specification rounds to even.

    Raises:
        OptionError: There is no such block size.
    """

    name: str
    element: ElementFormat
    block_size: int = 32
    rounding: Rounding = Rounding.HALF_EVEN

    def __post_init__(self) -> None:
        _require(self.block_size >= 1, "block_size", "at least 1", self.block_size)

    @property
    def bits(self) -> int:
        """Bits that an element takes by itself."""
        return self.element.bits

    @property
    def qmin(self) -> int:
        """The smallest element, in steps of the smallest positive one."""
        return int(self.element.smallest / self.element.step)

    @property
    def qmax(self) -> int:
        """The largest element, in steps of the smallest positive one."""
        return int(self.element.largest / self.element.step)


BlockFormat = BlockFloatFormat | MicroscalingFormat


def _require(holds: bool, option: str, rule: str, value: object) -> None:
    if not holds:
        raise OptionError(f"{option} of a block format must be {rule}, got {value}", option=option)


def _element(name: str, exponent_bits: int, mantissa_bits: int, largest: float, dtype: type) -> ElementFormat:
    return ElementFormat(
        name=name,
        exponent_bits=exponent_bits,
        mantissa_bits=mantissa_bits,
        largest=largest,
        smallest=-largest if exponent_bits else -2.0,
        dtype=np.dtype(dtype),
    )


def _microexponents(name: str, bit_width: int) -> BlockFloatFormat:
    method = BlockFloatMethod.TO_BFP_PRIME
    return BlockFloatFormat(name=name, method=method, bit_width=bit_width, block_size=16)


ELEMENT_FORMATS = {
    element.name: element
    for element in (
        _element("fp8_e5m2", 5, 2, 57344.0, ml_dtypes.float8_e5m2),
        _element("fp8_e4m3", 4, 3, 448.0, ml_dtypes.float8_e4m3fn),
        _element("fp6_e3m2", 3, 2, 28.0, ml_dtypes.float6_e3m2fn),
        _element("fp6_e2m3", 2, 3, 7.5, ml_dtypes.float6_e2m3fn),
        _element("fp4_e2m1", 2, 1, 6.0, ml_dtypes.float4_e2m1fn),
        _element("int8", 0, 6, 127 / 64, np.int8),
    )
}
"""By the value of the attribute ``element_dtype``."""

BFP16 = BlockFloatFormat(name="bfp16")
MX9 = _microexponents("mx9", 16)
MX6 = _microexponents("mx6", 13)
MX4 = _microexponents("mx4", 11)
MXFP8_E5M2 = MicroscalingFormat(name="mxfp8_e5m2", element=ELEMENT_FORMATS["fp8_e5m2"])
MXFP8_E4M3 = MicroscalingFormat(name="mxfp8_e4m3", element=ELEMENT_FORMATS["fp8_e4m3"])
MXFP6_E3M2 = MicroscalingFormat(name="mxfp6_e3m2", element=ELEMENT_FORMATS["fp6_e3m2"])
MXFP6_E2M3 = MicroscalingFormat(name="mxfp6_e2m3", element=ELEMENT_FORMATS["fp6_e2m3"])
MXFP4_E2M1 = MicroscalingFormat(name="mxfp4_e2m1", element=ELEMENT_FORMATS["fp4_e2m1"])
MXINT8 = MicroscalingFormat(name="mxint8", element=ELEMENT_FORMATS["int8"])

BLOCK_FLOAT_FORMATS = {fmt.name: fmt for fmt in (BFP16, MX9, MX6, MX4)}
MICROSCALING_FORMATS = {fmt.name: fmt for fmt in (MXFP8_E5M2, MXFP8_E4M3, MXFP6_E3M2, MXFP6_E2M3, MXFP4_E2M1, MXINT8)}
BLOCK_FORMATS: dict[str, BlockFormat] = {**BLOCK_FLOAT_FORMATS, **MICROSCALING_FORMATS}
"""By name, as ``QTYPES`` has them too."""
