"""Compiled loops over every element of an activation; ``histogram.py`` says what they mean.

Bit patterns. A float32 read as int32 sorts like the number once the low 31 bits of negative patterns are flipped, and
NaN and infinity lie outside all finite values in that order. So one pass in integers yields minimum, maximum
and "is anything not finite?", exactly, in SIMD code and without fast-math.
"""

import numpy as np
import numpy.typing as npt

from vqonnx.kernels.jit import compiled

_BLOCK = 1024
_WAYS = 4


@compiled
def ordered_extremes(bits: npt.NDArray[np.int32]) -> tuple[int, int]:
    """Smallest and largest order-preserving pattern; (int32 max, int32 min) when empty."""
    low = np.int32(0x7FFFFFFF)
    high = np.int32(-0x80000000)
    for i in range(bits.size):
        pattern = bits[i]
        ordered = pattern ^ ((pattern >> np.int32(31)) & np.int32(0x7FFFFFFF))
        low = min(low, ordered)
        high = max(high, ordered)
    return int(low), int(high)


@compiled
def finite_extremes(x: npt.NDArray[np.float32]) -> tuple[float, float, int]:
    """Smallest and largest finite element, and how many are not finite."""
    low, high, lost = np.inf, -np.inf, 0
    for value in x:
        if np.isfinite(value):
            low = min(low, value)
            high = max(high, value)
        else:
            lost += 1
    return low, high, lost


@compiled
def add_counts(x: npt.NDArray[np.float32], factor: np.float32, offset: int, counts: npt.NDArray[np.int64]) -> int:
    """Add the elements of ``x`` to ``counts``; return how many fell outside of it (NaN and infinity among them)."""
    bins = counts.size
    # One row a lane: equal neighbours (zeros after a Relu) must not wait for each other's store. The last column
    # takes what falls outside.
    table = np.zeros((_WAYS, bins + 1), np.int64)
    index = np.empty(_BLOCK, np.int32)
    top, shift, zero = np.float32(bins), np.float32(offset), np.float32(0.0)
    for start in range(0, x.size, _BLOCK):
        n = min(_BLOCK, x.size - start)
        for i in range(n):
            value = x[start + i]
            scaled = np.floor(value * factor)
            # A negative number so small that the product underflows belongs to bin -1.
            scaled = np.float32(-1.0) if (scaled == zero) & (value < zero) else scaled
            place = scaled - shift
            place = place if (place >= zero) & (place < top) else top
            index[i] = np.int32(place)
        whole = n - n % _WAYS
        for i in range(0, whole, _WAYS):
            table[0, index[i]] += 1
            table[1, index[i + 1]] += 1
            table[2, index[i + 2]] += 1
            table[3, index[i + 3]] += 1
        for i in range(whole, n):
            table[0, index[i]] += 1
    for k in range(bins):
        counts[k] += table[0, k] + table[1, k] + table[2, k] + table[3, k]
    return int(table[0, bins] + table[1, bins] + table[2, bins] + table[3, bins])


@compiled
def sums(x: npt.NDArray[np.float32]) -> tuple[int, float, float]:
    """Number, sum and sum of squares of the finite elements, in double precision and a fixed order."""
    count, total, squares = 0, np.zeros(_WAYS), np.zeros(_WAYS)
    for i in range(x.size):
        value = np.float64(x[i])
        if np.isfinite(value):
            count += 1
            total[i % _WAYS] += value
            squares[i % _WAYS] += value * value
    return count, total.sum(), squares.sum()
