"""Bit patterns of float32."""

import numpy as np

SIGN = np.uint32(0x80000000)
"""The sign bit."""
MAGNITUDE = np.uint32(0x7FFFFFFF)
"""All other bits; as integers they are ordered like the magnitudes."""
SMALLEST_NORMAL = np.uint32(0x00800000)
"""The smallest number that is not subnormal."""
INFINITE = np.uint32(0x7F800000)
"""Infinity: all numbers have a smaller magnitude, NaN a larger one."""
NOTHING = np.uint32(0xFFFFFFFF)
"""Above every magnitude."""
