"""What a convolution multiplies with its weight, as rows of a matrix (im2col)."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The window of a Conv (ONNX Conv-22), one number an axis of space.

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


def patches(x: FloatArray, window: Window, groups: int = 1) -> FloatArray:
    """The windows of a batch, [groups, rows, K]: a row an output position, so that Conv is ``rows @ weight.T``.

    Args:
        x: [N, C, ...].
        window: Size, steps and padding.
        groups: Groups of channels.

    Returns:
        A copy; rows run over the batch, then over space; K is channels of a group times the window's size, in the
        order of a weight [O, C / groups, ...].
    """
    space = range(2, x.ndim)
    spans = tuple((size - 1) * step + 1 for size, step in zip(window.shape, window.dilations, strict=True))
    padded = np.pad(x, [(0, 0), (0, 0), *zip(window.begins, window.ends, strict=True)])
    windows = sliding_window_view(padded, spans, axis=tuple(space))  # [N, C, positions…, window…]
    steps = (slice(None), slice(None), *(slice(None, None, step) for step in (*window.strides, *window.dilations)))
    chosen = windows[steps]
    grouped = chosen.reshape(x.shape[0], groups, -1, *chosen.shape[2:])
    rows = np.moveaxis(grouped, (1, 2), (0, 1 + 1 + len(space)))  # [groups, N, positions…, C / groups, window…]
    return rows.reshape(groups, x.shape[0] * int(np.prod(chosen.shape[2 : 2 + len(space)])), -1)
