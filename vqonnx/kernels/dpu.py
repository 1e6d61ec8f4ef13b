"""The arithmetic of AMD's NPU (DPU) where it differs from ONNX's: rounded constants, and a Softmax in bfloat16.

Source: AMD Quark 0.13, the simulation that its XINT8 flow puts into the float model; the runtime's CPU kernels
(vart) compute the same. A model with these constants gives in float what the device gives in integers.
"""

import math

import ml_dtypes
import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
Bf16 = npt.NDArray[ml_dtypes.bfloat16]

HARD_SIGMOID_ALPHA = 1 / 6
HARD_SIGMOID_BETA = 0.5
"""Slope and offset of the HardSigmoid that stands for a Sigmoid; the only ones that the device has."""

HARD_SIGMOID_FACTOR = 6 * 2731 / 16384
"""What the output of such a HardSigmoid is multiplied by: the device's 1/6 is 2731 * 2^-14."""

_LEAKY_RELU_STEPS = 256
_LARGEST_KERNEL = 255
_AVERAGE_OF_SQUARE = {3: 7 / 64, 5: 10 / 256, 6: 7 / 256, 7: 21 / 1024, 14: 21 / 4096}
"""The device's 1 / area of the square kernels that it has constants for, by side."""

EXP_COEFFICIENTS = (0.21875, 0.486328125, 1.0, 1.0)
"""Of r^3, r^2, r and 1: exp(r) for 0 <= r < ln 2."""
RECIPROCAL_SEED = 0x7EB5
RECIPROCAL_STEP = (1.9395974, 1.436142)
"""Moroz, Samotyy and Horyachyy 2018, "An effective floating-point reciprocal" (IDAACS-SWS)."""


def leaky_relu_alpha(alpha: float) -> float:
    """The slope of a LeakyRelu as the device has it: the nearest multiple of 1/256; 26/256 for 0.1."""
    return float(np.rint(alpha * _LEAKY_RELU_STEPS)) / _LEAKY_RELU_STEPS


def is_hard_sigmoid(alpha: float, beta: float) -> bool:
    """Whether the device has this HardSigmoid; alpha is 1/6 and beta 0.5, each to within 1e-6."""
    return math.isclose(alpha, HARD_SIGMOID_ALPHA, abs_tol=1e-6) and math.isclose(beta, HARD_SIGMOID_BETA, abs_tol=1e-6)


def shifted_reciprocal(count: int) -> tuple[int, int]:
    """(k, n) with k * 2^-n nearest to 1 / count, for the smallest such n below 7 + ceil(log2 count); k is 8 bits."""
    steps = range(7 + math.ceil(math.log2(count)))
    n = min(steps, key=lambda n: abs(round(2**n / count) * count - 2**n) / 2**n)
    return round(2**n / count), n


def mean_factor(count: int) -> float:
    """What a mean over ``count`` elements is multiplied by to give the device's: count * k * 2^-n, near 1."""
    k, n = shifted_reciprocal(count)
    return count * k / 2.0**n


def average_pool_factor(height: int, width: int) -> float:
    """What the output of an average pooling is multiplied by to give the device's.

    Square kernels of side 3, 5, 6, 7 and 14 have constants of their own; others follow ``mean_factor``, and kernels
    of a side above 255 are not the device's: 1.

    Args:
        height: Rows of the kernel; of the input, for a global pooling.
        width: Its columns.
    """
    if max(height, width) > _LARGEST_KERNEL:
        return 1.0
    area = height * width
    return area * _AVERAGE_OF_SQUARE[height] if height == width in _AVERAGE_OF_SQUARE else mean_factor(area)


def clip_bound(bound: float) -> float:
    """A bound of a Clip as the device has it: the nearest integer within -128..127."""
    return float(np.clip(np.rint(bound), -128, 127))


def softmax(x: npt.ArrayLike, axis: int = -1, *, reciprocal: bool = True) -> Bf16:
    """Softmax as the device computes it, in bfloat16 and without subtracting the largest element.

    Args:
        x: Any shape; elements above about 88 overflow, as on the device.
        axis: The axis that adds up to 1.
        reciprocal: Multiply by the approximate reciprocal of the sum, as the device does; else divide by it, which
            needs no operator that looks at bits.
    """
    powers = exp(x)
    total = _bf16(powers.astype(np.float32).sum(axis=axis, keepdims=True))
    if reciprocal:
        return _bf16(_wide(powers) * _wide(approximate_reciprocal(total)))
    return _bf16(_wide(powers) / _wide(total))


def exp(x: npt.ArrayLike) -> Bf16:
    """Exponential in bfloat16: 2^n times a polynomial of r = x - n ln 2, n = floor(x / ln 2)."""
    rounded = _wide(_bf16(x))
    n = np.floor(_wide(_bf16(rounded * _wide(_bf16(1 / math.log(2))))))
    r = _wide(_bf16(rounded - _wide(_bf16(n * _wide(_bf16(math.log(2)))))))
    polynomial = np.full_like(r, EXP_COEFFICIENTS[0])
    for coefficient in EXP_COEFFICIENTS[1:]:
        polynomial = _wide(_bf16(polynomial * r + coefficient))
    with np.errstate(over="ignore"):
        return _bf16(np.ldexp(polynomial, n.astype(np.int32)))


def approximate_reciprocal(x: npt.ArrayLike) -> Bf16:
    """1 / x in bfloat16 for normal positive x: an integer subtraction and two Newton steps."""
    divisor = _bf16(x)
    seed = (np.int32(RECIPROCAL_SEED) - divisor.view(np.uint16).astype(np.int32)).astype(np.uint16)
    y, z = _wide(seed.view(ml_dtypes.bfloat16)), _wide(divisor)
    factor, offset = (_wide(_bf16(constant)) for constant in RECIPROCAL_STEP)
    y = _wide(_bf16(_wide(_bf16(y * factor)) * _wide(_bf16(offset - y * z))))
    return _bf16(y + y * _wide(_bf16(1 - y * z)))


def _bf16(x: npt.ArrayLike) -> Bf16:
    with np.errstate(over="ignore"):
        return np.asarray(x, np.float32).astype(ml_dtypes.bfloat16)


def _wide(x: Bf16) -> F64:
    return np.asarray(x).astype(np.float64)
