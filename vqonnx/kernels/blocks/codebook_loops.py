"""The compiled loop behind ``codebook.py``."""

import numpy as np
import numpy.typing as npt

from vqonnx.kernels.jit import compiled

_CHUNK = 4096


@compiled
def count_below(
    values: npt.NDArray[np.float32], middles: npt.NDArray[np.float32], places: npt.NDArray[np.uint8]
) -> None:
    """How many of ``middles`` (ascending) each value exceeds: the index of its interval (.., ..]."""
    for start in range(0, values.size, _CHUNK):
        chunk, found = values[start : start + _CHUNK], places[start : start + _CHUNK]
        found[:] = np.uint8(0)
        for middle in middles:
            for i in range(chunk.size):
                found[i] += np.uint8(chunk[i] > middle)
