"""Quantized element types, as a table."""

from dataclasses import dataclass, field
from enum import Enum

import ml_dtypes
import numpy as np
import numpy.typing as npt

from vqonnx.core.block_formats import BLOCK_FLOAT_FORMATS, MICROSCALING_FORMATS, BlockFormat


class Kind(Enum):
    """How the codes of a type map to numbers."""

    INTEGER = "integer"
    FLOAT = "float"
    BLOCK_FLOAT = "block float"
    MICROSCALING = "microscaling"


@dataclass(frozen=True, slots=True)
class QType:
    """An element type that tensors can be quantized to.

    Attributes:
        name: The type's name in ONNX, in lower case: ``"int8"``, ``"uint4"``, ``"float8e4m3fn"``; a block format's
            own name.
        bits: Bits that one element takes, without what its block shares.
        signed: Whether it holds negative numbers.
        kind: Integer codes on a uniform grid, small floating-point numbers, or either under a shared exponent.
        qmin: Smallest representable code; ``qmin <= 0 <= qmax``.
        qmax: Largest finite code; of a block format, in steps of the smallest positive element.
        dtype: The numpy (or ml_dtypes) type of an unpacked element; float32 for block formats, whose rounded numbers
            stay in a float tensor.
    """

    name: str
    bits: int
    signed: bool
    kind: Kind
    qmin: int
    qmax: int
    dtype: np.dtype[np.generic] = field(compare=False, repr=False)

    @property
    def levels(self) -> int:
        """Distinct codes of an integer type."""
        return self.qmax - self.qmin + 1


def _integer(name: str, bits: int, dtype: npt.DTypeLike) -> QType:
    signed = name.startswith("int")
    qmin = -(1 << (bits - 1)) if signed else 0
    qmax = qmin + (1 << bits) - 1
    return QType(name, bits, signed, Kind.INTEGER, qmin, qmax, np.dtype(dtype))


def _block(fmt: BlockFormat, kind: Kind) -> QType:
    return QType(fmt.name, fmt.bits, True, kind, fmt.qmin, fmt.qmax, np.dtype(np.float32))


INT2 = _integer("int2", 2, ml_dtypes.int2)
UINT2 = _integer("uint2", 2, ml_dtypes.uint2)
INT4 = _integer("int4", 4, ml_dtypes.int4)
UINT4 = _integer("uint4", 4, ml_dtypes.uint4)
INT8 = _integer("int8", 8, np.int8)
UINT8 = _integer("uint8", 8, np.uint8)
INT16 = _integer("int16", 16, np.int16)
UINT16 = _integer("uint16", 16, np.uint16)
INT32 = _integer("int32", 32, np.int32)
UINT32 = _integer("uint32", 32, np.uint32)
FLOAT32 = QType("float32", 32, True, Kind.FLOAT, -(2**128 - 2**104), 2**128 - 2**104, np.dtype(np.float32))
"""What stays as it is, though planned: biases beside block formats, which can be corrected. Not in ``QTYPES``."""
FLOAT16 = QType("float16", 16, True, Kind.FLOAT, -65504, 65504, np.dtype(np.float16))
BFLOAT16 = QType("bfloat16", 16, True, Kind.FLOAT, -(2**128 - 2**120), 2**128 - 2**120, np.dtype(ml_dtypes.bfloat16))
FLOAT8E4M3FN = QType("float8e4m3fn", 8, True, Kind.FLOAT, -448, 448, np.dtype(ml_dtypes.float8_e4m3fn))
FLOAT8E5M2 = QType("float8e5m2", 8, True, Kind.FLOAT, -57344, 57344, np.dtype(ml_dtypes.float8_e5m2))

QTYPES: dict[str, QType] = {
    qtype.name: qtype
    for qtype in (
        INT2, UINT2, INT4, UINT4, INT8, UINT8, INT16, UINT16, INT32, UINT32,
        FLOAT16, BFLOAT16, FLOAT8E4M3FN, FLOAT8E5M2,
        *(_block(fmt, Kind.BLOCK_FLOAT) for fmt in BLOCK_FLOAT_FORMATS.values()),
        *(_block(fmt, Kind.MICROSCALING) for fmt in MICROSCALING_FORMATS.values()),
    )
}  # fmt: skip
