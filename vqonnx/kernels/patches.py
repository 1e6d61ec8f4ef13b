"""What a convolution multiplies with its weight, as rows of a matrix (im2col)."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

FloatArray = npt.NDArray[np.floating]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The window of a Conv (ONNX Conv-22), one number an axis of space; none at all for a matrix product.

    Attributes:
        shape: Its size.
        strides: Steps between windows.
        dilations: Steps between elements of a window.
        begins: Zeros before each axis.
        ends: Zeros behind each axis.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]


def patches(x: FloatArray, window: Window, rows: I64 | None = None) -> FloatArray:
    """The windows of a batch, [rows, C, *shape], so that a row times a weight's filter is one output.

    Args:
        x: [N, C, ...].
        window: Size, steps and padding.
        rows: Numbers of those that are wanted, of batch and output space in C order; all if None.

    Returns:
        A copy of what is wanted alone.
    """
    padded = np.pad(x, [(0, 0), (0, 0), *zip(window.begins, window.ends, strict=True)])
    spans = tuple((size - 1) * step + 1 for size, step in zip(window.shape, window.dilations, strict=True))
    axes = len(spans)
    every = sliding_window_view(padded, spans, axis=tuple(range(2, x.ndim)))  # [N, C, space…, window…]
    steps = (slice(None), slice(None), *(slice(None, None, step) for step in (*window.strides, *window.dilations)))
    channels_last = np.moveaxis(every[steps], 1, 1 + axes)  # [N, space…, C, window…]
    places = channels_last.shape[: 1 + axes]
    chosen = np.arange(math.prod(places)) if rows is None else rows
    return np.asarray(channels_last[np.unravel_index(chosen, places)])


def row_count(shape: tuple[int, ...], window: Window) -> int:
    """Rows of ``patches`` of a tensor of this shape."""
    sizes = zip(shape[2:], window.shape, window.strides, window.dilations, window.begins, window.ends, strict=True)
    space = (
        (length + begin + end - (size - 1) * dilation - 1) // stride + 1
        for length, size, stride, dilation, begin, end in sizes
    )
    return math.prod((shape[0], *(max(0, one) for one in space)))
