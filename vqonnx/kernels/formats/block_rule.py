"""What the compiled loops need to know of a format whose elements share an exponent."""

from typing import NamedTuple

import numpy as np


class Rule(NamedTuple):
    """A format in terms of units. The unit of a block is a power of two, below which its grid is uniform.

    With E and e the largest biased exponents (0 .. 255) of a block and a sub-block, the unit there is 2 to the power
    of ``max(E - max_exponent, 0) + min_exponent - min(E - e, largest_shift) - 127``. An element below the unit
    becomes a multiple of ``2^-mantissa_bits`` units; a larger one keeps ``mantissa_bits`` behind its leading bit.

    Attributes:
        mantissa_bits: Bits behind the leading one.
        max_exponent: Exponent of the largest element, without shared scale.
        min_exponent: Exponent of the smallest normal element, without shared scale.
        largest_shift: By how much the exponent of a sub-block may be smaller.
        bottom: The smallest element in units.
        top: The largest.
        away: What elements that lie halfway grow by, relative to themselves: more than 0 rounds them away from zero.
        up: What is added to them, relative to their magnitude: more than 0 rounds them up.
        raises: Whether a block whose largest element would round beyond ``top`` takes the next exponent.
        sign_mask: The sign bit, if zeros keep their sign.
        smallest: Magnitudes below this pattern count as 0.
        passed: Magnitudes from this pattern on pass unchanged and have no part in the exponents.
    """

    mantissa_bits: int
    max_exponent: int
    min_exponent: int
    largest_shift: int
    bottom: float
    top: float
    away: float
    up: float
    raises: bool
    sign_mask: np.uint32
    smallest: np.uint32
    passed: np.uint32


NUDGE = 2.0**-40
"""Moves a float32 off the middle between two numbers, and no other across one: float32 has 24 bits."""
