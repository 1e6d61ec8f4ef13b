"""Compiled loops over every element of an activation; ``histogram.py`` says what they mean.

Bit patterns. A float32 read as int32 sorts like the number once the low 31 bits of negative patterns are flipped, and
NaN and infinity lie outside all finite values in that order. So one pass in integers yields minimum, maximum
and "is anything not finite?", exactly, in SIMD code and without fast-math.
"""

import numpy as np
import numpy.typing as npt

from vqonnx.kernels.jit import compiled, floats_at

_FIRST_NONFINITE = 0x7F800000  # bit pattern of +inf; larger ones are NaN
_BLOCK = 1024
_LANES = 4


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
def extremes(x: npt.NDArray[np.float32]) -> tuple[float, float, int]:
    """As ``finite_extremes``, in one fast pass where all elements are finite; zeros come back as +0.0."""
    if x.size == 0:
        return np.inf, -np.inf, 0
    low, high = ordered_extremes(x.view(np.int32))
    if high >= _FIRST_NONFINITE or low < -_FIRST_NONFINITE:
        lowest, highest, lost = finite_extremes(x)
        return lowest + 0.0, highest + 0.0, lost
    patterns = np.array([low ^ ((low >> 31) & 0x7FFFFFFF), high ^ ((high >> 31) & 0x7FFFFFFF)]).astype(np.int32)
    ends = patterns.view(np.float32)
    return ends[0] + 0.0, ends[1] + 0.0, 0


@compiled
def add_counts(x: npt.NDArray[np.float32], factor: np.float32, offset: int, counts: npt.NDArray[np.int64]) -> int:
    """Add the elements of ``x`` to ``counts``; return how many fell outside of it (NaN and infinity among them)."""
    bins = counts.size
    # One row a lane: equal neighbours (zeros after a Relu) must not wait for each other's store. The last column
    # takes what falls outside. 32 bits keep the table in the first cache, for tensors below 8 G elements.
    table = np.zeros((_LANES, bins + 1), np.int32)
    index = np.empty(_BLOCK, np.uint32)  # unsigned, so that numba does not look for indices from the end
    top, shift, zero = np.float32(bins), np.float32(offset), np.float32(0.0)
    for start in range(0, x.size, _BLOCK):
        block = x[start : start + _BLOCK]
        for i in range(block.size):
            value = block[i]
            scaled = np.floor(value * factor)
            # A negative number so small that the product underflows belongs to bin -1.
            scaled = np.float32(-1.0) if (scaled == zero) & (value < zero) else scaled
            place = scaled - shift
            place = place if (place >= zero) & (place < top) else top
            index[i] = np.uint32(np.int32(place))
        quads = block.size // _LANES
        for quad in range(quads):
            at = np.uint64(_LANES * quad)
            table[0, index[at]] += 1
            table[1, index[at + np.uint64(1)]] += 1
            table[2, index[at + np.uint64(2)]] += 1
            table[3, index[at + np.uint64(3)]] += 1
        for i in range(_LANES * quads, block.size):
            table[0, index[i]] += 1
    outside = 0
    for lane in range(_LANES):
        outside += table[lane, bins]
        for k in range(bins):
            counts[k] += table[lane, k]
    return outside


@compiled
def sums(x: npt.NDArray[np.float32]) -> tuple[int, float, float]:
    """Number, sum and sum of squares of the finite elements, in double precision and a fixed order."""
    count, total, squares = 0, np.zeros(_LANES), np.zeros(_LANES)
    for i in range(x.size):
        value = np.float64(x[i])
        if np.isfinite(value):
            count += 1
            total[i % _LANES] += value
            squares[i % _LANES] += value * value
    return count, total.sum(), squares.sum()


@compiled
def survey(
    tensors: npt.NDArray[np.uint64],
    begin: int,
    found: npt.NDArray[np.float64],
    spans: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
) -> int:
    """Ends and counts of many tensors in one call, from number ``begin`` on.

    Args:
        tensors: [n, 2], address and size of each contiguous float32 tensor.
        begin: The first tensor to look at.
        found: [n, 3], filled in: smallest and largest finite element, and how many are not finite.
        spans: [n, 3], the ends between which elements can be counted, and the reciprocal of the width of a bin.
        rows: [n, 2], number of the first bin, and of bins; none where only ends are wanted.
        counts: [n, bins], added to.

    Returns:
        The first tensor that has elements beyond its span, none of which are counted; n if there is none.
    """
    number: int = tensors.shape[0]
    for k in range(begin, number):
        x = floats_at(tensors[k, 0], tensors[k, 1])
        low, high, lost = extremes(x)
        found[k, 0], found[k, 1], found[k, 2] = low, high, lost
        if low > high:
            continue
        if low < spans[k, 0] or high > spans[k, 1]:
            return k
        width = rows[k, 1]
        if width > 0:
            add_counts(x, np.float32(spans[k, 2]), rows[k, 0], counts[k, :width])
    return number
