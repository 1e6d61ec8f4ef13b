"""Relative entropy, as scipy.special.rel_entr and scipy.stats.entropy define it, without SciPy."""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]


def rel_entr(pk: FloatArray, qk: FloatArray) -> FloatArray:
    """The terms p log(p / q); 0 where p is 0 and q is not negative, infinite where either is negative."""
    p, q = np.broadcast_arrays(pk, qk)
    both = (p > 0) & (q > 0)
    found: FloatArray = np.where((p == 0) & (q >= 0), p.dtype.type(0), p.dtype.type(np.inf))
    found[both] = p[both] * np.log(p[both] / q[both])
    return found


def entropy(pk: npt.ArrayLike, qk: npt.ArrayLike, base: float | None = None, axis: int = 0) -> FloatArray:
    """The entropy of ``pk`` relative to ``qk`` (Kullback-Leibler), each scaled to the sum 1 along ``axis``, in float32.

    Args:
        pk: The distribution.
        qk: The one that stands for it.
        base: Of the logarithm; e by default.
        axis: The axis that is summed over.

    Raises:
        ValueError: ``base`` is not positive.
    """
    if base is not None and base <= 0:
        raise ValueError(f"base must be positive, got {base}")
    p, q = (np.asarray(values, np.float32) for values in (pk, qk))
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = rel_entr(p / p.sum(axis=axis, keepdims=True), q / q.sum(axis=axis, keepdims=True))
    total: FloatArray = np.asarray(terms.sum(axis=axis) / np.log(np.e if base is None else base), np.float32)
    return total
