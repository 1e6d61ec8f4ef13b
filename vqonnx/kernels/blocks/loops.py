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

BLOCKS_PER_TASK = 16
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
    return min(max(_TILE // block_size, 64), 1024)


@compiled
def task_count(in_features: int, out_features: int, block_size: int) -> int:
    """Number of tasks that a weight is cut into; their results do not depend on each other."""
    blocks = -(-in_features // block_size)
    return -(-blocks // BLOCKS_PER_TASK) * -(-out_features // tile_width(block_size))


@compiled
def load_tile(source: Source, first: int, channel: int, tile: Tile, measure: bool) -> bool:
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
    # Eight channels at a time: as many cache lines stay in one set of the first cache when their distance is 4 KiB.
    for start in range(0, part.shape[0], 8):
        few = part[start : start + 8]
        for k in range(part.shape[1]):
            row = bits[k, start : start + 8]
            for c in range(few.shape[0]):
                row[c] = few[c, k]


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
def _round_scales(scales: F32, kind: int) -> None:
    """Make positive, normal scales what the weight's type holds: float16 to nearest even, bfloat16 up."""
    patterns = scales.view(np.uint32)
    if kind == BFLOAT16:
        for c in range(scales.size):
            patterns[c] = (patterns[c] + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)
    elif kind == FLOAT16:
        for c in range(scales.size):
            subnormal = (scales[c] + _HALF_GRID) - _HALF_GRID
            small = scales[c] < _HALF_NORMAL
            odd = (patterns[c] >> np.uint32(13)) & np.uint32(1)
            patterns[c] = (patterns[c] + np.uint32(0xFFF) + odd) & np.uint32(0xFFFFE000)
            scales[c] = subnormal if small else scales[c]


@compiled
def _choose(ranges: tuple[F32, F32], form: Form, kind: int, scales: F32, zeros: F32) -> None:
    """Scales and zero points of blocks with the given ranges; one SIMD lane a channel."""
    low, high = ranges
    bits, _, symmetric, _ = form
    top, middle = np.float32((1 << bits) - 1), np.float32(1 << (bits - 1))
    smallest = _HALF_STEP if kind == FLOAT16 else _SMALLEST_NORMAL
    steps = np.empty(low.size, np.float32)
    for c in range(low.size):
        step = max(high[c], -low[c]) / middle if symmetric else (high[c] - low[c]) / top
        step = step if step <= _LARGEST else high[c] / top - low[c] / top
        step = step if step > smallest else smallest
        steps[c] = step if low[c] < high[c] else np.float32(1)
    scales[:] = steps
    _round_scales(scales, kind)
    if symmetric:
        zeros[:] = middle
        for c in range(low.size):
            scales[c] = -scales[c] if high[c] > -low[c] else scales[c]
    else:
        exact = scales if kind == BFLOAT16 else steps
        for c in range(low.size):
            zero = -low[c] / exact[c]
            zeros[c] = np.float32(np.int32((zero if zero < top else top) + _BELOW_HALF))


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
def _shrink(ranges: tuple[F32, F32], ratios: F32, channel: int, block: int) -> None:
    """Multiply the ranges of a tile by their ratios."""
    low, high = ranges
    column = min(block, ratios.shape[1] - 1)
    for c in range(low.size):
        ratio = ratios[min(channel + c, ratios.shape[0] - 1), column]
        low[c] *= ratio
        high[c] *= ratio


@compiled
def _parameters(scales: F32, zeros: F32, given: bool, place: tuple[int, int], target: Target) -> None:
    """Read the parameters of a tile from the target where they are given, else write them there."""
    channel, block = place
    stored, stored_zeros = target[1][channel : channel + scales.size], target[2][channel : channel + scales.size]
    for c in range(scales.size):
        if given:
            scales[c], zeros[c] = stored[c, block], stored_zeros[c, block]
        else:
            stored[c, block], stored_zeros[c, block] = scales[c], np.uint8(zeros[c])


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
    codes = target[0]
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
        scales, zeros = np.empty(count, np.float32), np.empty(count, np.float32)
        first = task // columns * BLOCKS_PER_TASK
        for block in range(first, min(first + BLOCKS_PER_TASK, blocks)):
            finite &= load_tile(source, block * size, channel, (patterns, reals, low, high), not given)
            if not given:
                _shrink((low, high), ratios, channel, block)
                _choose((low, high), form, source[2], scales, zeros)
            _parameters(scales, zeros, given, (channel, block), target)
            _encode(reals, scales, zeros, bits, words)
            turned = codes[channel : channel + count, block]
            for c in range(count):
                for word in range(rows):
                    turned[c, word] = words[word, c]
    return finite
