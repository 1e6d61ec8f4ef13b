"""Compiled rounding to floating-point numbers of few bits.

The arithmetic is float64, in which nothing that float32 holds overflows, vanishes or is subnormal: products with powers
of two are exact, and adding and subtracting 1.5 * 2^52 steps rounds to a multiple of the step, halves to even.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vqonnx.kernels.formats.bit_patterns import double_of_pattern, float_of_pattern, pattern_of_double, pattern_of_float
from vqonnx.kernels.formats.float_patterns import INFINITE, MAGNITUDE, SIGN
from vqonnx.kernels.jit import compiled

F32 = npt.NDArray[np.float32]

_BINADE = np.uint64(0x7FF0000000000000)  # all bits of a float64's exponent


class FloatGrid(NamedTuple):
    """The numbers of a floating-point format.

    Attributes:
        mantissa_bits: Bits behind the leading one.
        smallest_normal: Below it, the distance of neighbours stays the same.
        largest: The largest finite number.
        overflow: What larger ones become.
    """

    mantissa_bits: int
    smallest_normal: float
    largest: float
    overflow: float


@compiled
def rounder(mantissa_bits: int) -> float:
    """What ``nearest`` needs to know of a format."""
    return 1.5 * 2.0 ** (52 - mantissa_bits)


@compiled
def nearest(value: float, smallest_normal: float, rounder: float) -> float:
    """The nearest number of unbounded exponent; NaN for infinity, and where ``smallest_normal`` is NaN."""
    binade = double_of_pattern(pattern_of_double(value) & _BINADE)
    shifter = (binade if binade > smallest_normal else smallest_normal) * rounder
    return (value + shifter) - shifter


@compiled
def round_floats(x: F32, grid: FloatGrid, out: F32) -> None:
    """Write the nearest number of the format for each element of x [n]; NaN stays NaN."""
    add = rounder(grid.mantissa_bits)
    for i in range(x.size):
        pattern = pattern_of_float(x[i])
        rounded = abs(nearest(np.float64(x[i]), grid.smallest_normal, add))
        rounded = grid.overflow if rounded > grid.largest else rounded
        rounded = grid.overflow if np.uint32(pattern & MAGNITUDE) == INFINITE else rounded
        out[i] = float_of_pattern(np.uint32(pattern_of_float(np.float32(rounded)) | (pattern & SIGN)))
