"""How much to scale each channel of a tensor so that per-tensor codes serve all channels alike.

By the ranges of the activation (``channel_factors``), or by those of the weights on either side alone
(``pair_factors``).
"""

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]

_LIMIT = 20.0
"""How far a channel may leave the geometric mean, either way: a rare channel is not worth more."""
_SMALL_BIAS, _SMALL_BIAS_RATIO = 10.0, 20.0


def column_shares(weight: F64, groups: int) -> F64:
    """How large each input channel's weights are in the row where they count most.

    Args:
        weight: [M, C / groups, ...], as Conv has it; not empty.
        groups: Groups of the Conv; row o reads the channels of its own group alone.

    Returns:
        [C], ``max over o of max|W[o, c]| / max|W[o, :]|``, in [0, 1]: 1 for a depthwise Conv, 0 for a channel that
        no row uses.
    """
    rows = np.abs(weight).reshape(groups, weight.shape[0] // groups, weight.shape[1], -1).max(axis=3)
    largest = rows.max(axis=2, keepdims=True)
    shares = np.divide(rows, largest, out=np.zeros_like(rows), where=largest > 0)
    return np.asarray(shares.max(axis=1).reshape(-1))


def channel_factors(ranges: F64, shares: F64, alpha: float) -> F64:
    """Factors proportional to ``shares^(1 - alpha) / ranges^alpha``, within 20 times of their geometric mean.

    With alpha = 1/2 the precision of the activation's codes and that of the weights' are balanced (Nagel et al.
    2019, arXiv:1906.04721, section 4.1, with the range of the activation in place of the producers' weights); with
    alpha = 1 all channels get one range, which is best where weights have a scale a channel. Powers of two would
    leave float results equal to the last bit, but many channels want less than half a step: rounded so, MobileNetV2
    gains 1.2 dB of SQNR instead of 1.6, EfficientNet-Lite0 nothing instead of 0.1 (means of five calibration sets).

    Args:
        ranges: [C], >= 0, largest magnitude of each channel, in the tensor's unit.
        shares: [C], >= 0, from ``column_shares``.
        alpha: Weight of the activation, in [0, 1].

    Returns:
        [C], > 0. Their geometric mean is about 1, or less where else the largest channel would grow: float16 ends at
        65504. Channels with a range or share of 0 get 1.
    """
    factors = np.ones_like(ranges)
    live = (ranges > 0) & (shares > 0)
    if not live.any():
        return factors
    wanted = (1 - alpha) * np.log(shares[live]) - alpha * np.log(ranges[live])
    near = np.clip(wanted - wanted.mean(), -np.log(_LIMIT), np.log(_LIMIT))
    grown = np.max(near + np.log(ranges[live])) - np.log(ranges[live].max())
    factors[live] = np.exp(near - max(0.0, grown))
    return factors


def pair_factors(head: F64, tail: F64, *, least: float = 0.0) -> F64:
    """Factors that make each channel's weights as large where it is computed as where it is read: sqrt(tail / head).

    Nagel et al. 2019, arXiv:1906.04721, section 4.1, equation 11 (whose s is the inverse): the head's weights are
    multiplied, the tail's divided, and both ranges become sqrt(head * tail). Along a chain, layer by layer and again
    until nothing changes, all ranges of a channel become equal: of a Conv, a depthwise and a pointwise one, the
    cube root of their product.

    Args:
        head: [C], >= 0, largest magnitude in each output channel of the layer that computes the tensor.
        tail: [C], >= 0, largest magnitude in each input channel of the layers that read it.
        least: Channels whose two ranges together are below this stay: small weights cost no precision. In the
            weights' unit.

    Returns:
        [C], > 0; 1 where a range is 0.
    """
    factors = np.ones_like(head)
    live = (head > 0) & (tail > 0) & (head + tail >= least)
    factors[live] = np.sqrt(tail[live] / head[live])
    return factors


def bias_shrinkage(bias: F64, ranges: F64) -> float:
    """What a bias is divided by when it counts as one more weight of its channel in ``pair_factors``.

    A bias has 32 bits and its own scale, so it costs less than a weight as large; but scaled up it widens the
    activation. The larger biases are beside the weights, the less they count, so that they do not rule alone.
    Source: AMD Quark 0.13 (the thresholds are its own).

    Args:
        bias: [C], in the activation's unit.
        ranges: [C], >= 0, largest magnitude in each output channel of the weight.

    Returns:
        2, 5, 10 or 20; infinity where no weight, or no bias, is there to compare.
    """
    live = ranges > 0
    magnitudes = np.abs(bias)
    if not live.any() or not magnitudes.any():
        return np.inf
    ratios = magnitudes[live] / ranges[live]
    median, mean = float(np.median(ratios)), float(ratios.mean())
    if magnitudes.max() < _SMALL_BIAS and magnitudes.max() / ranges.max() < _SMALL_BIAS_RATIO:
        return 5.0 if median > 100 or mean > 1000 else 2.0
    if median > 30 or mean > 500:
        return 20.0
    return 10.0 if median > 15 or mean > 100 else 5.0
