"""What the tests of number formats share: roundings, blocks in numpy, and numbers that try a format's edges."""

import numpy as np
import pytest

from vqonnx.core.block_formats import Rounding

ROUNDINGS = pytest.mark.parametrize("rounding", list(Rounding), ids=lambda rounding: rounding.name.lower())

ROUND = {
    Rounding.HALF_AWAY: lambda x: np.copysign(np.floor(np.abs(x) + 0.5), x),
    Rounding.HALF_UP: lambda x: np.copysign(np.floor(x + 0.5), x),
    Rounding.HALF_EVEN: np.rint,
}
"""To integers, in float64. No sum here rounds: what is rounded has at most 24 bits."""


def in_blocks(x, axis, size, rounded, fmt):
    """``rounded`` of the float64 blocks [.., size] along the axis; a short block is filled with zeros."""
    with np.errstate(invalid="ignore"):  # signalling NaN
        moved = np.moveaxis(x.astype(np.float64), axis, -1)
    padded = np.concatenate([moved, np.zeros((*moved.shape[:-1], -moved.shape[-1] % size))], axis=-1)
    result = rounded(padded.reshape(*moved.shape[:-1], -1, size), fmt).reshape(padded.shape)
    return np.moveaxis(result[..., : moved.shape[-1]], -1, axis)


def assert_same_bits(actual, expected):
    """Equal bit for bit, the sign of zero included; NaN equals NaN. ``expected`` must fit float32 exactly."""
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = np.asarray(expected).astype(np.float32)
    np.testing.assert_array_equal(narrow, expected)
    assert actual.dtype == np.float32
    np.testing.assert_array_equal(actual, narrow)
    zeros = narrow == 0
    np.testing.assert_array_equal(np.signbit(actual[zeros]), np.signbit(narrow[zeros]))


def spread_out(rng, shape):
    """Random float32: each row of the last axis near a magnitude of its own, from subnormals to the largest."""
    base = rng.integers(-149, 128, (*shape[:-1], 1)) if len(shape) > 1 else rng.integers(-20, 20, (1,))
    spread = rng.integers(0, 12, shape)
    x = np.ldexp(rng.uniform(-2, 2, shape), base - spread)
    x[rng.random(shape) < 0.05] = 0.0
    x[rng.random(shape) < 0.05] *= 0.0  # of either sign
    return np.clip(x, -3.4028234e38, 3.4028234e38).astype(np.float32)


def all_patterns(rng):
    """Every float16 and every bfloat16 number and the middles above them, in blocks of all kinds: [.., 64].

    Sorted blocks hold neighbours; shuffled ones hold numbers of all magnitudes, NaN and infinity.
    """
    patterns = np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(invalid="ignore"):
        half = patterns.view(np.float16).astype(np.float32)
    brain = (patterns.astype(np.uint32) << 16).view(np.float32)
    middles = ((half.view(np.uint32) | 0x1000).view(np.float32), (brain.view(np.uint32) | 0x8000).view(np.float32))
    numbers = np.concatenate([half, brain, *middles])
    finite = numbers[np.isfinite(numbers)]
    finite = rng.permutation(finite)[: finite.size // 64 * 64]
    return np.concatenate([numbers, rng.permutation(numbers), finite]).reshape(-1, 64)
