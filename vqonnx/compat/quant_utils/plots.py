"""Histograms of calibration: drawn, and without empty bins."""

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

from vqonnx.errors import DependencyError


def apply_plot(hist: npt.ArrayLike, hist_edges: npt.ArrayLike) -> None:
    """Draw a histogram in a window.

    Raises:
        DependencyError: matplotlib is not installed.
    """
    try:
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ModuleNotFoundError as error:
        raise DependencyError("apply_plot draws with matplotlib (pip install it)", package="matplotlib") from error
    pyplot.stairs(hist, hist_edges, fill=True)
    pyplot.xlabel("value")
    pyplot.ylabel("count")
    pyplot.show()


def smooth_distribution(p: npt.NDArray[Any], eps: float = 0.0001) -> npt.NDArray[np.float32] | None:
    """A distribution with ``eps`` in its empty bins, taken from the others in equal parts.

    Returns:
        float32, of the shape of ``p``; None where all bins are empty.

    Raises:
        ValueError: What is taken would leave nothing.
    """
    empty = p == 0
    full = p.size - int(np.count_nonzero(empty))
    if not full:
        return None
    smoothed = p.astype(np.float32) + np.where(empty, eps, -eps * (p.size - full) / full).astype(np.float32)
    if (smoothed <= 0).any():
        raise ValueError(f"eps={eps} is more than the other bins have; take a smaller one")
    return smoothed
