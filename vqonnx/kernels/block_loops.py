"""Compiled loops that quantize and pack a weight block by block; ``blocks.py`` says what they compute.

A tile is one block along K and some dozen neighbouring output channels. It is widened to float32 in a buffer that stays
in the cache, measured and quantized there with one SIMD lane a channel, packed, and turned so that the bytes of a
channel lie together: every weight is read from memory once.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from vqonnx.kernels.jit import compiled

F32: TypeAlias = npt.NDArray[np.float32]
U8: TypeAlias = npt.NDArray[np.uint8]
U32: TypeAlias = npt.NDArray[np.uint32]

FLOAT32, FLOAT16, BFLOAT16 = 0, 1, 2
"""What the bits of a weight mean, and the precision of its scales."""

Source: TypeAlias = tuple[npt.NDArray[np.unsignedinteger], bool, int]
"""Bit patterns [K, N], or [N, K] if the flag is set, and which of the types above they are."""

Form: TypeAlias = tuple[int, int, bool, bool]
"""Bits; block size; whether zero points are the middle code; whether scales and zero points are given."""

Target: TypeAlias = tuple[U32, F32, U8]
"""Packed codes [N, J, words], in little-endian words; scales [N, J]; zero points [N, J], one a byte."""

Tile: TypeAlias = tuple[U32, F32, F32, F32]
"""float32 patterns [block, channels]; the same memory as float32; smallest and largest element [channels], or 0."""

_BLOCKS_PER_TASK = 16
_TILE = 32768  # elements: 128 KiB of float32
_SMALLEST_NORMAL = np.float32(2.0**-126)
_LARGEST = np.float32(3.4028235e38)
_HALF_NORMAL = np.float32(2.0**-14)
_HALF_STEP = np.float32(2.0**-24)  # smallest float16
_HALF_GRID = np.float32(0.75)  # its float32 neighbours are 2^-24 away: adding it rounds to multiples of that
_BELOW_HALF = np.float32(0.49999997)  # the largest below 1/2: trunc(x + this) is roundf(x) for 0 <= x < 2^23
_INFINITE = np.uint32(0x7F800000)
_MAGNITUDE = np.uint32(0x7FFFFFFF)


@compiled
def tile_width(block_size: int) -> int:
    """Output channels of a tile."""
    return min(max(_TILE // block_size, 16), 1024)


@compiled
def task_count(in_features: int, out_features: int, block_size: int) -> int:
    """Number of tasks that a weight is cut into; their results do not depend on each other."""
    blocks = -(-in_features // block_size)
    return -(-blocks // _BLOCKS_PER_TASK) * -(-out_features // tile_width(block_size))


@compiled
def _load(source: Source, first: int, channel: int, tile: Tile, measure: bool) -> bool:
    """Fill the tile's block from row ``first`` on, zeros behind K; whether all elements are finite, where measured."""
    weight, transposed, kind = source
    bits, reals, low, high = tile
    rows = min(bits.shape[0], (weight.shape[1] if transposed else weight.shape[0]) - first)
    bits[rows:] = np.uint32(0)
    if transposed:
        _turn(weight[channel : channel + low.size, first : first + rows], bits)
    low[:] = np.float32(0)
    high[:] = np.float32(0)
    largest = np.zeros(low.size, np.uint32)
    for k in range(rows):  # row by row, so that reading the next one overlaps the work on this one
        patterns, values = bits[k], reals[k]
        if not transposed:
            row = weight[first + k, channel : channel + low.size]
            for c in range(low.size):
                patterns[c] = row[c]
        if kind != FLOAT32:
            _widen(patterns, values, kind)
        if measure:
            _measure(patterns, values, low, high, largest)
    return bool(largest.max() < _INFINITE)


@compiled
def _turn(part: npt.NDArray[np.unsignedinteger], bits: U32) -> None:
    """The transpose of ``part`` [channels, rows] into the first rows of ``bits``."""
    for c in range(part.shape[0]):
        column = part[c]
        for k in range(column.size):
            bits[k, c] = column[k]


@compiled
def _widen(patterns: U32, values: F32, kind: int) -> None:
    """Turn 16-bit patterns into float32 ones, in place."""
    if kind == BFLOAT16:
        for c in range(patterns.size):
            patterns[c] <<= np.uint32(16)
        return
    for c in range(patterns.size):
        half = patterns[c]
        sign = (half & np.uint32(0x8000)) << np.uint32(16)
        magnitude = half & np.uint32(0x7FFF)
        patterns[c] = sign | (_INFINITE if magnitude >= np.uint32(0x7C00) else magnitude << np.uint32(13))
    bias = np.float32(2.0**112)  # what the biases of the exponents differ by; exact for subnormals too
    for c in range(patterns.size):
        values[c] *= bias


@compiled
def _measure(patterns: U32, values: F32, low: F32, high: F32, largest: U32) -> None:
    """Widen each channel's range, and the largest magnitude's pattern, by one row."""
    for c in range(low.size):
        value = values[c]
        low[c] = value if value < low[c] else low[c]
        high[c] = value if value > high[c] else high[c]
        largest[c] = max(largest[c], patterns[c] & _MAGNITUDE)


@compiled
def _storable(step: np.float32, kind: int) -> np.float32:
    """The normal ``step`` > 0 as the weight's type holds it: float16 to nearest even, bfloat16 up."""
    if kind == FLOAT32:
        return step
    if kind == FLOAT16 and step < _HALF_NORMAL:
        return np.float32((step + _HALF_GRID) - _HALF_GRID)
    pattern = np.empty(1, np.uint32)
    real = pattern.view(np.float32)
    real[0] = step
    if kind == BFLOAT16:
        pattern[0] = (pattern[0] + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)
    else:
        odd = (pattern[0] >> np.uint32(13)) & np.uint32(1)
        pattern[0] = (pattern[0] + np.uint32(0xFFF) + odd) & np.uint32(0xFFFFE000)
    return np.float32(real[0])


@compiled
def _choose(low: np.float32, high: np.float32, form: Form, kind: int) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of a block with the range [low, high]."""
    bits, _, symmetric, _ = form
    top, middle = np.float32((1 << bits) - 1), np.float32(1 << (bits - 1))
    if low == high:
        return np.float32(1), np.uint8(middle if symmetric else np.float32(0))
    step = max(high, -low) / middle if symmetric else (high - low) / top
    if step > _LARGEST:
        step = high / top - low / top
    step = max(step, _HALF_STEP if kind == FLOAT16 else _SMALLEST_NORMAL)
    scale = _storable(step, kind)
    if symmetric:
        return (-scale if high > -low else scale), np.uint8(middle)
    exact = scale if kind == BFLOAT16 else step
    return scale, np.uint8(min(-low / exact, top) + _BELOW_HALF)


@compiled
def _encode(reals: F32, scales: F32, zeros: F32, bits: int, words: U32) -> None:
    """Codes of a tile, packed along the block into words: [ceil(block * bits / 32), channels]."""
    top = np.float32((1 << bits) - 1)
    per_word = 32 // bits
    factors = np.float32(1) / scales
    for k in range(reals.shape[0]):
        word, values = words[k // per_word], reals[k]
        shift = np.uint32(k % per_word * bits)
        if shift == 0:
            word[:] = np.uint32(0)
        for c in range(scales.size):
            code = values[c] * factors[c] + zeros[c]
            code = code if code > np.float32(0) else np.float32(0)
            code = code if code < top else top
            word[c] |= np.uint32(np.int32(code + _BELOW_HALF)) << shift


@compiled
def _parameters(ranges: tuple[F32, F32], ratios: F32, form: Form, place: tuple[int, int, int], target: Target) -> None:
    """Choose and store the scales and zero points of a tile."""
    low, high = ranges
    channel, block, kind = place
    for c in range(low.size):
        ratio = ratios[min(channel + c, ratios.shape[0] - 1), min(block, ratios.shape[1] - 1)]
        scale, zero = _choose(low[c] * ratio, high[c] * ratio, form, kind)
        target[1][channel + c, block] = scale
        target[2][channel + c, block] = zero


@compiled
def quantize_tasks(source: Source, ratios: F32, form: Form, target: Target, start: int, stop: int) -> bool:
    """Quantize and pack the tiles of tasks start .. stop (see ``task_count``).

    Args:
        source: The weight.
        ratios: [N or 1, J or 1], by which ranges are multiplied.
        form: How.
        target: Where; scales and zero points are read instead where they are given.
        start: First task.
        stop: The one after the last.

    Returns:
        Whether every element was finite; not looked at where scales are given.
    """
    codes, scales, zero_points = target
    bits, size, _, given = form
    out_features, blocks, rows = codes.shape
    width = tile_width(size)
    columns = -(-out_features // width)
    finite = True
    for task in range(start, stop):
        channel = task % columns * width
        count = min(width, out_features - channel)
        patterns, words = np.empty((size, count), np.uint32), np.empty((rows, count), np.uint32)
        reals = patterns.view(np.float32)
        low, high = np.empty(count, np.float32), np.empty(count, np.float32)
        first = task // columns * _BLOCKS_PER_TASK
        for block in range(first, min(first + _BLOCKS_PER_TASK, blocks)):
            finite &= _load(source, block * size, channel, (patterns, reals, low, high), not given)
            if not given:
                _parameters((low, high), ratios, form, (channel, block, source[2]), target)
            own = scales[channel : channel + count, block].copy()
            zeros = zero_points[channel : channel + count, block].astype(np.float32)
            _encode(reals, own, zeros, bits, words)
            turned = codes[channel : channel + count, block]
            for c in range(count):
                for word in range(rows):
                    turned[c, word] = words[word, c]
    return finite
