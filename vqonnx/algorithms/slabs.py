"""Solve a large weight a slab of columns at a time, so that the work space does not grow with it.

Columns (output channels) do not depend on each other in any algorithm here, once what they share is known. Slabs begin
where tiles begin, so the result is the same as without them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from vqonnx.core.blocks import CodebookBlocks, FloatArray, QuantizedBlocks
from vqonnx.kernels.blocks.grid import matrix_shape

_ELEMENTS = 1 << 24  # of a slab: 64 MiB of float32
_COLUMNS = 1024  # least width: enough tiles for all cores


def slabs(k: int, n: int, *, multiple: int = 1) -> Iterator[tuple[int, int]]:
    """First column and the one after the last of each slab of a weight [K, N].

    Args:
        k: K.
        n: N.
        multiple: What the first columns are multiples of, beside 1024.
    """
    unit = math.lcm(_COLUMNS, multiple)
    width = max(1, _ELEMENTS // max(k, 1) // unit) * unit
    for left in range(0, n, width):
        yield left, min(left + width, n)


def by_slabs(weight: FloatArray, solve: Callable[[FloatArray], QuantizedBlocks]) -> QuantizedBlocks:
    """``solve(weight)`` for a ``solve`` that treats each column of a weight [K, N] on its own."""
    k, n = matrix_shape(weight)
    if n <= _COLUMNS:
        return solve(weight)
    return join_channels([solve(weight[:, left:right]) for left, right in slabs(k, n)])


def join_channels(parts: Sequence[QuantizedBlocks]) -> QuantizedBlocks:
    """Packed weights side by side; each has all K inputs and some of the output channels."""
    if len(parts) == 1:
        return parts[0]
    zero_points = [part.zero_points for part in parts if part.zero_points is not None]
    return replace(
        parts[0],
        codes=np.concatenate([part.codes for part in parts]),
        scales=np.concatenate([part.scales for part in parts]),
        zero_points=np.concatenate(zero_points) if zero_points else None,
        out_features=sum(part.out_features for part in parts),
    )


def book_by_slabs(weight: FloatArray, solve: Callable[[FloatArray], CodebookBlocks], block_size: int) -> CodebookBlocks:
    """The same for a code book, whose blocks of the flat transpose may end within a column."""
    k, n = matrix_shape(weight)
    whole = math.lcm(2, block_size)  # codes after which both a byte and a block end
    edges = slabs(k, n, multiple=whole // math.gcd(whole, max(k, 1)))
    parts = [solve(weight[:, left:right]) for left, right in edges]
    if len(parts) <= 1:
        return parts[0] if parts else solve(weight)
    return replace(
        parts[0],
        codes=np.concatenate([part.codes for part in parts]),
        absmax=np.concatenate([part.absmax for part in parts]),
        out_features=n,
    )
