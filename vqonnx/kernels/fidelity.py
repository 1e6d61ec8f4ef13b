"""How much of a tensor is left after its quantization, by its histogram alone."""

import math

import numpy as np
import numpy.typing as npt

from vqonnx.core.params import QuantParams
from vqonnx.kernels.affine import dequantize, quantize
from vqonnx.kernels.bins import Bins

_SHARES = (np.arange(8) + 0.5) / 8
"""Where a bin is probed, as shares of its width: its elements count as evenly spread."""


def quantization_sqnr(bins: Bins, params: QuantParams, bulk: float = 1.0) -> float:
    """SQNR in dB of quantizing the elements of a histogram with one scale.

    Args:
        bins: The histogram.
        params: Scale and zero point, per tensor.
        bulk: Share of the elements that count, the smallest magnitudes first. Below 1 it leaves out outliers,
            whose energy would hide that all else is rounded to nothing.

    Returns:
        10 log10(sum x^2 / sum (x - dequantized x)^2); inf for an empty histogram, or one without error.
    """
    if not bins.counts.any():
        return math.inf
    points = _points(bins)
    weights = _bulk_weights(bins.counts.astype(np.float64), np.abs(points).mean(axis=1), bulk)[:, None]
    errors = points - dequantize(quantize(points, params), params)
    signal, noise = float((weights * points**2).sum()), float((weights * errors**2).sum())
    return math.inf if noise == 0 else 10 * math.log10(signal / noise) if signal else -math.inf


def quantization_error(bins: Bins, params: QuantParams, power: int) -> float:
    """Sum of |x - dequantized x|^power over the elements of a histogram quantized with one scale."""
    points = _points(bins)
    errors = np.abs(points - dequantize(quantize(points, params), params).astype(np.float64)) ** power
    return float((bins.counts * errors.mean(axis=1)).sum())


def _points(bins: Bins) -> npt.NDArray[np.float64]:
    """Where the bins are probed, [n, 8]."""
    lower = (bins.offset + np.arange(bins.counts.size)) * bins.width
    points: npt.NDArray[np.float64] = np.clip(lower[:, None] + bins.width * _SHARES, bins.low, bins.high)
    return points


def _bulk_weights(counts: np.ndarray, magnitudes: np.ndarray, bulk: float) -> np.ndarray:
    """The counts, without those of the largest magnitudes beyond the share ``bulk``."""
    if bulk >= 1:
        return counts
    order = np.argsort(magnitudes, kind="stable")
    below = np.cumsum(counts[order])
    kept = counts.copy()
    kept[order[below > bulk * below[-1]]] = 0
    return kept
