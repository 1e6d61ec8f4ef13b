"""Exact minimum, maximum, histogram counts and sums of a float tensor.

Bin k of a histogram holds [k * 2**exponent, (k + 1) * 2**exponent), and ``counts[i]`` belongs to bin ``offset + i``.
Bins are anchored at zero, and multiplying by a power of two is exact; so the bin of a value does not depend on the
order of work, doubling the width merges pairs of bins exactly, and zero is always an edge.

float32 and float16 tensors are measured exactly; others are rounded to float32 first. The functions here keep one
thread busy and release the GIL: run samples side by side.
"""

import math

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Reals = npt.NDArray[np.generic]

MIN_EXPONENT = -126
"""Smallest bin exponent: 2**126 is the largest power of two by which float32 values are scaled."""


def min_max(x: Reals) -> tuple[float, float, int]:
    """Smallest and largest finite element of ``x`` and how many elements are NaN or infinite.

    Without finite elements (an empty tensor too) the ends are (inf, -inf). Zeros come back as +0.0.
    """
    from vqonnx.kernels import counting

    return counting.extremes(flat_float32(x))


def bin_range(low: float, high: float, exponent: int) -> tuple[int, int]:
    """Bins of ``low`` and ``high`` (finite) at ``exponent``."""
    return math.floor(math.ldexp(low, -exponent)), math.floor(math.ldexp(high, -exponent))


def bin_exponent(low: float, high: float, bins: int) -> int:
    """Smallest exponent, at least MIN_EXPONENT, at which [low, high] spans at most ``bins`` (>= 2) bins.

    A wider interval never gets a smaller exponent, which makes merging associative.
    """
    if low == high:
        return MIN_EXPONENT
    exponent = max(MIN_EXPONENT, math.frexp(high - low)[1] - bins.bit_length())
    while True:
        first, last = bin_range(low, high, exponent)
        if last - first < bins:
            return exponent
        exponent += 1


def widen(counts: Counts, offset: int, steps: int) -> tuple[Counts, int]:
    """The same counts in bins ``2**steps`` times as wide, with their new offset."""
    if steps == 0 or counts.size == 0:
        return counts, offset >> steps
    first = offset >> steps
    places = ((offset + np.arange(counts.size)) >> steps) - first
    # bincount's weights are doubles: exact below 2**53 elements a bin.
    return np.bincount(places, weights=counts).astype(np.int64), first


def count_bins(x: Reals, exponent: int, offset: int, counts: Counts) -> int:
    """Add the elements of ``x`` to ``counts`` in place; return how many fell outside, NaN and infinity among them."""
    from vqonnx.kernels import counting

    return counting.add_counts(flat_float32(x), np.float32(math.ldexp(1.0, -exponent)), offset, counts)


def survey(
    tensors: npt.NDArray[np.uint64],
    begin: int,
    found: npt.NDArray[np.float64],
    spans: npt.NDArray[np.float64],
    rows: npt.NDArray[np.int64],
    counts: Counts,
) -> int:
    """Ends and counts of many tensors in one call; arguments as in ``counting.survey``."""
    from vqonnx.kernels import counting

    return counting.survey(tensors, begin, found, spans, rows, counts)


def moments(x: Reals) -> tuple[int, float, float]:
    """Number, sum and sum of squares of the finite elements of ``x``."""
    from vqonnx.kernels import counting

    return counting.sums(flat_float32(x))


def flat_float32(x: Reals) -> npt.NDArray[np.float32]:
    """``x`` as a vector of float32; without a copy where it already is contiguous float32."""
    if x.dtype == np.float32 and x.flags.c_contiguous:
        return x.reshape(-1)  # type: ignore[return-value]  # mypy does not learn from the comparison
    with np.errstate(over="ignore"):  # a float64 beyond float32's range counts as infinite
        flat: npt.NDArray[np.float32] = np.ascontiguousarray(x, np.float32).reshape(-1)
    return flat
