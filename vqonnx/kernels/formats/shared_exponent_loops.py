"""Compiled loops that round blocks of neighbours under a shared exponent; ``block_rule.py`` says what they compute.

The arithmetic is that of ``float_loops.py``: float64, in which nothing overflows and all scales are exact.
"""

import numpy as np
import numpy.typing as npt

from vqonnx.kernels.formats.bit_patterns import double_of_pattern, float_of_pattern, pattern_of_float
from vqonnx.kernels.formats.block_rule import Rule
from vqonnx.kernels.formats.float_loops import nearest, rounder
from vqonnx.kernels.formats.float_patterns import MAGNITUDE, SIGN
from vqonnx.kernels.jit import compiled

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
U32 = npt.NDArray[np.uint32]

TILE = 1024
"""Elements, or columns, that are worked on at a time; what belongs to them stays in the first cache."""

_NAN = np.uint64(0x7FF8000000000000)
_LARGEST_UNIT = 2.0**127


@compiled
def round_rows(x: F32, form: tuple[int, int, int], rule: Rule, span: tuple[int, int], out: F32) -> None:
    """Round blocks along the last axis.

    Args:
        x: [rows, n]; the last block of a row may be short.
        form: Elements of a block, of a sub-block, and of a group: the largest of 8, 4, 2 and 1 that divides both.
        rule: How.
        span: First block of all rows, counted row by row, and the one after the last.
        out: [rows, n], written.
    """
    block = form[0]
    n = x.shape[1]
    blocks, whole = -(-n // block), n // block
    tile = max(TILE // block, 1)
    scratch = _scratch(tile * block // form[2])
    padded, rounded = np.zeros(block, np.float32), np.empty(block, np.float32)
    index = span[0]
    while index < span[1]:
        row, first = index // blocks, index % blocks
        count = min(tile, whole - first, span[1] - index)
        source, target = x[row, first * block :], out[row, first * block :]
        if count > 0:
            _round_tile(source[: count * block], form, rule, scratch, target[: count * block])
            index += count
        else:  # zeros change no exponent
            padded[: source.size] = source
            _round_tile(padded, form, rule, scratch, rounded)
            target[:] = rounded[: source.size]
            index += 1


@compiled
def _scratch(size: int) -> tuple[U32, U32, U32, F64]:
    """Largest patterns of sub-blocks and blocks, of positive elements alone, and units."""
    return np.empty(size, np.uint32), np.empty(size, np.uint32), np.empty(size, np.uint32), np.empty(size)


@compiled
def _round_tile(x: F32, form: tuple[int, int, int], rule: Rule, scratch: tuple[U32, U32, U32, F64], out: F32) -> None:
    """Round whole blocks that lie one behind the other."""
    block, sub, group = form
    groups = x.size // group
    own, shared, positive, unit = scratch[0][:groups], scratch[1][:groups], scratch[2][:groups], scratch[3][:groups]
    if rule.raises:
        _measure_groups(x, group, rule.passed, SIGN, positive)
        _spread(positive, block // group, positive)
    _measure_groups(x, group, rule.passed, np.uint32(0), own)
    _spread(own, sub // group, own)
    _spread(own, block // group, shared)
    _choose_units(own, shared, rule, unit)
    if rule.raises:
        _raise_units(positive, rule, unit)
    _round_groups(x, unit, group, rule, out)


@compiled
def _measure_groups(x: F32, group: int, passed: np.uint32, ignored: np.uint32, largest: U32) -> None:
    """Pattern of the largest magnitude of each group. Fixed sizes become straight SIMD code."""
    if group == 8:
        _measure(x, 8, passed, ignored, largest)
    elif group == 4:
        _measure(x, 4, passed, ignored, largest)
    elif group == 2:
        _measure(x, 2, passed, ignored, largest)
    else:
        _measure(x, 1, passed, ignored, largest)


@compiled
def _measure(x: F32, group: int, passed: np.uint32, ignored: np.uint32, largest: U32) -> None:
    for j in range(x.size // group):
        found = np.uint32(0)
        for i in range(j * group, j * group + group):
            found = max(found, _counted(x[i], passed, ignored))
        largest[j] = found


@compiled
def _counted(value: np.float32, passed: np.uint32, ignored: np.uint32) -> np.uint32:
    """The pattern of the magnitude; 0 where it passes or has an ignored bit."""
    pattern = pattern_of_float(value)
    magnitude = np.uint32(pattern & MAGNITUDE)
    return magnitude if magnitude < passed and pattern & ignored == 0 else np.uint32(0)


@compiled
def _spread(source: U32, run: int, largest: U32) -> None:
    """Give each entry the largest of its run. Fixed lengths become straight SIMD code."""
    if run == 1:
        largest[:] = source
    elif run == 4:
        _spread_runs(source, 4, largest)
    elif run == 8:
        _spread_runs(source, 8, largest)
    else:
        _spread_runs(source, run, largest)


@compiled
def _spread_runs(source: U32, run: int, largest: U32) -> None:
    for start in range(0, source.size, run):
        found = np.uint32(0)
        for i in range(start, start + run):
            found = max(found, source[i])
        for i in range(start, start + run):
            largest[i] = found


@compiled
def _choose_units(own: U32, shared: U32, rule: Rule, unit: F64) -> None:
    """Units from the largest patterns of sub-blocks and blocks; NaN where a block holds NaN or infinity."""
    for i in range(unit.size):
        exponent = int(shared[i] >> np.uint32(23))
        shift = min(exponent - int(own[i] >> np.uint32(23)), rule.largest_shift)
        scale = max(exponent - rule.max_exponent, 0) + rule.min_exponent - shift - 127
        pattern = np.uint64(scale + 1023) << np.uint64(52)
        unit[i] = double_of_pattern(pattern if exponent < 255 else _NAN)


@compiled
def _raise_units(positive: U32, rule: Rule, unit: F64) -> None:
    """Double the units of blocks whose largest element would round to twice the unit, where float32 can hold that."""
    limit = rule.top + 0.5 * 2.0**-rule.mantissa_bits
    for i in range(unit.size):
        largest = np.float64(float_of_pattern(positive[i]))
        unit[i] *= 2.0 if largest >= limit * unit[i] and unit[i] < _LARGEST_UNIT else 1.0


@compiled
def _round_groups(x: F32, unit: F64, group: int, rule: Rule, out: F32) -> None:
    """Round groups of elements with one unit each. Fixed sizes become straight SIMD code."""
    if group == 8:
        _round(x, unit, 8, rule, out)
    elif group == 4:
        _round(x, unit, 4, rule, out)
    elif group == 2:
        _round(x, unit, 2, rule, out)
    else:
        _round(x, unit, 1, rule, out)


@compiled
def _round(x: F32, unit: F64, group: int, rule: Rule, out: F32) -> None:
    add = rounder(rule.mantissa_bits)
    for j in range(x.size // group):
        for i in range(j * group, j * group + group):
            out[i] = _element(x[i], unit[j], add, rule)


@compiled
def _element(x: np.float32, unit: float, add: float, rule: Rule) -> np.float32:
    """The nearest element of a block with this unit."""
    pattern = pattern_of_float(x)
    magnitude = np.uint32(pattern & MAGNITUDE)
    value = np.float64(x) if magnitude >= rule.smallest else 0.0
    found = nearest(value + rule.away * value + rule.up * abs(value), unit, add)
    top, bottom = unit * rule.top, unit * rule.bottom
    bottom = bottom if bottom > -2.0 * _LARGEST_UNIT else -top  # -128 / 64 * 2^127 is no float32
    found = top if found > top else found
    found = bottom if found < bottom else found
    rounded = np.uint32(pattern_of_float(np.float32(found)) | (pattern & rule.sign_mask))
    return float_of_pattern(pattern if magnitude >= rule.passed else rounded)


@compiled
def column_tasks(shape: tuple[int, int, int], block: int) -> int:
    """Number of tasks that ``round_columns`` is cut into; their results do not depend on each other."""
    outer, n, inner = shape
    return outer * -(-n // block) * -(-inner // TILE)


@compiled
def round_columns(x: F32, form: tuple[int, int], rule: Rule, span: tuple[int, int], out: F32) -> None:
    """Round blocks along the middle axis, neighbouring columns in SIMD lanes.

    Args:
        x: [outer, n, inner]; the last block may be short.
        form: Elements of a block and of a sub-block.
        rule: How.
        span: First task and the one after the last, see ``column_tasks``.
        out: [outer, n, inner], written.
    """
    block, sub = form
    n, inner = x.shape[1:]
    blocks, chunks = -(-n // block), -(-inner // TILE)
    scratch = _scratch(min(inner, TILE))
    for task in range(span[0], span[1]):
        place, left = task // chunks, task % chunks * TILE
        i, first = place // blocks, place % blocks * block
        panel = first, min(first + block, n), left, min(left + TILE, inner)
        _round_panel(x[i], panel, sub, rule, scratch, out[i])


@compiled
def _round_panel(
    x: F32, panel: tuple[int, int, int, int], sub: int, rule: Rule, scratch: tuple[U32, U32, U32, F64], out: F32
) -> None:
    """Round one block in each of several columns: rows ``panel[0:2]`` and columns ``panel[2:4]`` of x [n, inner]."""
    top, bottom, left, right = panel
    columns = right - left
    own, shared, positive = scratch[0][:columns], scratch[1][:columns], scratch[2][:columns]
    unit = scratch[3][:columns]
    if rule.raises:
        _measure_columns(x, panel, rule.passed, SIGN, positive)
    _measure_columns(x, panel, rule.passed, np.uint32(0), shared)
    for first in range(top, bottom, sub):
        last = min(first + sub, bottom)
        if sub < bottom - top:
            _measure_columns(x, (first, last, left, right), rule.passed, np.uint32(0), own)
        else:
            own[:] = shared
        _choose_units(own, shared, rule, unit)
        if rule.raises:
            _raise_units(positive, rule, unit)
        for row in range(first, last):
            _round(x[row, left:right], unit, 1, rule, out[row, left:right])


@compiled
def _measure_columns(
    x: F32, panel: tuple[int, int, int, int], passed: np.uint32, ignored: np.uint32, largest: U32
) -> None:
    largest[:] = np.uint32(0)
    for row in range(panel[0], panel[1]):
        values = x[row, panel[2] : panel[3]]
        for i in range(values.size):
            largest[i] = max(largest[i], _counted(values[i], passed, ignored))
