"""Compiled loops over what packed blocks miss of a weight; ``block_errors.py`` says what is done with it.

As in ``block_loops.py``, a tile is one block along K and some dozen output channels, one SIMD lane a channel.
"""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from vqonnx.kernels.blocks.loops import BLOCKS_PER_TASK, Source, load_tile, tile_width
from vqonnx.kernels.jit import compiled

F32: TypeAlias = npt.NDArray[np.float32]
F64: TypeAlias = npt.NDArray[np.float64]
U32: TypeAlias = npt.NDArray[np.uint32]

Packed: TypeAlias = tuple[U32, F32, F32]
"""Packed codes [N, J, words], in little-endian words; scales [N, J]; zero points [N, J]."""

_ROWS = 32
"""Rows whose squares are summed in single precision."""


@compiled
def _gather(packed: Packed, place: tuple[int, int], words: U32, scales: F32, zeros: F32) -> None:
    """The codes of a tile, [words, channels], and its scales and zero points."""
    codes, all_scales, all_zeros = packed
    channel, block = place
    for c in range(scales.size):
        scales[c], zeros[c] = all_scales[channel + c, block], all_zeros[channel + c, block]
        for word in range(words.shape[0]):
            words[word, c] = codes[channel + c, block, word]


@compiled
def _decode(word: U32, shift: int, mask: np.uint32, grid: tuple[F32, F32], values: F32) -> None:
    """What one row of a tile stands for."""
    scales, zeros = grid
    for c in range(values.size):
        values[c] = (np.float32(np.int32((word[c] >> np.uint32(shift)) & mask)) - zeros[c]) * scales[c]


@compiled
def _add_squares(reals: F32, values: F32, sums: F32) -> None:
    """Add the squares of a row of the weight, and of its distance from ``values``, to each channel's two sums."""
    for c in range(reals.size):
        miss = reals[c] - values[c]
        sums[0, c] += reals[c] * reals[c]
        sums[1, c] += miss * miss


@compiled
def squared_errors(source: Source, packed: Packed, form: tuple[int, int], tasks: tuple[int, int], sums: F64) -> None:
    """Squares of the weight, and of what its packed form misses, summed for each task (``block_loops.task_count``).

    Args:
        source: The weight.
        packed: Its packed form.
        form: Bits, block size.
        tasks: First task and the one after the last.
        sums: [tasks, 2], added to.
    """
    bits, size = form
    per_word, mask = 32 // bits, np.uint32((1 << bits) - 1)
    out_features, blocks, words_of_block = packed[0].shape
    in_features = source[0].shape[1] if source[1] else source[0].shape[0]
    width = tile_width(size)
    columns = -(-out_features // width)
    for task in range(tasks[0], tasks[1]):
        channel = task % columns * width
        count = min(width, out_features - channel)
        patterns, words = np.empty((size, count), np.uint32), np.empty((words_of_block, count), np.uint32)
        reals, values = patterns.view(np.float32), np.empty(count, np.float32)
        low, high = np.empty(count, np.float32), np.empty(count, np.float32)
        scales, zeros = np.empty(count, np.float32), np.empty(count, np.float32)
        partial = np.empty((2, count), np.float32)
        first = task // columns * BLOCKS_PER_TASK
        for block in range(first, min(first + BLOCKS_PER_TASK, blocks)):
            load_tile(source, block * size, channel, (patterns, reals, low, high), False)
            _gather(packed, (channel, block), words, scales, zeros)
            for start in range(0, min(size, in_features - block * size), _ROWS):
                partial[:] = np.float32(0)
                for k in range(start, min(start + _ROWS, size, in_features - block * size)):
                    _decode(words[k // per_word], k % per_word * bits, mask, (scales, zeros), values)
                    _add_squares(reals[k], values, partial)
                for c in range(count):
                    sums[task, 0] += partial[0, c]
                    sums[task, 1] += partial[1, c]


@compiled
def take_out(rows: F32, packed: Packed, form: tuple[int, int], channel: int) -> None:
    """Subtract what the packed channels from ``channel`` on stand for.

    Args:
        rows: [K, C], changed; C channels side by side.
        packed: The packed weight.
        form: Bits, block size.
        channel: First output channel.
    """
    bits, size = form
    per_word, mask = 32 // bits, np.uint32((1 << bits) - 1)
    count = rows.shape[1]
    words, values = np.empty((packed[0].shape[2], count), np.uint32), np.empty(count, np.float32)
    scales, zeros = np.empty(count, np.float32), np.empty(count, np.float32)
    for k in range(rows.shape[0]):
        if k % size == 0:
            _gather(packed, (channel, k // size), words, scales, zeros)
        place = k % size
        _decode(words[place // per_word], place % per_word * bits, mask, (scales, zeros), values)
        for c in range(count):
            rows[k, c] -= values[c]
