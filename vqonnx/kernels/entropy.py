"""The range whose quantized distribution is nearest to the observed one in relative entropy (Kullback-Leibler).

After TensorRT's calibrator (Migacz, "8-bit inference with TensorRT", GTC 2017): the observed distribution P has the
clipped elements in its outermost bins; Q has the elements inside the range alone, those of each code evenly spread over
its non-empty bins; the range with the least sum of P log(P / Q) wins.

Differences, each with its reason:

* The two ends are searched separately, so that one-sided and skewed tensors use all codes.
* There are as many cells as the type has codes, of nearly equal width, not 128 with the remainder in the last.
* The bin at zero is a cell of its own, because zero is exact however many elements a Relu put there; TensorRT
  overwrites that bin.
* Q is not scaled up to sum to one. Scaled, a range that clips nearly everything into its last bin would be a perfect
  match.
* A range ends in a non-empty bin, which makes every KL finite without smoothing.
* A type with as many codes as there are bins (16 bits) shows no rounding error at this resolution and keeps the
  observed range.
"""

import numpy as np
import numpy.typing as npt

from vqonnx.kernels.bins import Bins, Range, with_zero

I64 = npt.NDArray[np.int64]
_Candidate = tuple[float, int, int]  # relative entropy, first and last bin


def least_entropy(bins: Bins, codes: int) -> Range:
    """The range of least relative entropy for ``codes`` codes: a grid of pairs of ends, then one end at a time."""
    counts, zero = _reaching_zero(bins)
    if counts.size <= codes:
        return with_zero(bins.low, bins.high, symmetric=False)
    filled = np.flatnonzero(counts)
    firsts, lasts = filled[filled < zero], filled[filled > zero][::-1]
    firsts = firsts if firsts.size else np.zeros(1, np.int64)
    lasts = lasts if lasts.size else np.full(1, counts.size - 1)
    pairs = np.meshgrid(_thinned(firsts, 12), _thinned(lasts, 12))
    best = _least(counts, zero, codes, pairs[0].ravel(), pairs[1].ravel())
    firsts, lasts = _thinned(firsts, 128), _thinned(lasts, 128)
    for _ in range(4):
        before = best
        best = min(best, _least(counts, zero, codes, np.full_like(lasts, best[1]), lasts), key=_entropy)
        best = min(best, _least(counts, zero, codes, firsts, np.full_like(firsts, best[2])), key=_entropy)
        if best == before:
            break
    low, high = (best[1] - zero) * bins.width, (best[2] + 1 - zero) * bins.width
    return with_zero(max(low, bins.low), min(high, bins.high), symmetric=False)


def relative_entropies(counts: I64, zero: int, codes: int, firsts: I64, lasts: I64) -> npt.NDArray[np.float64]:
    """The sum of P log(P / Q), [c], of the ranges of bins firsts..lasts; infinite where narrower than the codes.

    Args:
        counts: [n] elements in each bin.
        zero: The bin that begins at zero; n where all elements are negative.
        codes: Cells of a range.
        firsts: [c] first bins.
        lasts: [c] last bins.
    """
    from vqonnx.kernels import searching

    weighted = np.log(counts, out=np.zeros(counts.size), where=counts > 0) * counts
    rows = np.cumsum(np.stack([counts, counts > 0, weighted]).astype(np.float64), axis=1)
    prefix = np.concatenate([np.zeros((3, 1)), rows], axis=1)
    return searching.relative_entropies(firsts, lasts, counts, prefix, zero, codes)


def _least(counts: I64, zero: int, codes: int, firsts: I64, lasts: I64) -> _Candidate:
    entropies = relative_entropies(counts, zero, codes, firsts, lasts)
    best = int(np.argmin(entropies))  # the first of equals, the widest
    return float(entropies[best]), int(firsts[best]), int(lasts[best])


def _entropy(candidate: _Candidate) -> float:
    return candidate[0]


def _reaching_zero(bins: Bins) -> tuple[I64, int]:
    """Counts with empty bins up to zero, and the bin that begins at zero."""
    missing = max(0, bins.offset), max(0, -bins.offset - bins.counts.size)
    return np.pad(bins.counts, missing), -min(0, bins.offset)


def _thinned(candidates: I64, most: int) -> I64:
    """At most ``most`` of the candidates, evenly chosen, the first always among them."""
    return candidates[:: -(-candidates.size // most)]
