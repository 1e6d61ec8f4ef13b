"""Reads the tensors of a PyTorch weight file without PyTorch.

The format before PyTorch 1.6: three pickles (magic number, version, machine), one pickle of the state dict in
which storages are persistent ids, one of the storage keys, then per storage an int64 count and its raw values.
"""

import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from models.build import Array

_STORAGES: dict[str, np.dtype[Any]] = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
_PREAMBLE = 3


class _Reader(pickle.Unpickler):
    """Builds nothing but ordered dictionaries and tensor descriptions, so a file cannot run code."""

    def find_class(self, module: str, name: str) -> Callable[..., Any] | str:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: (storage[2], storage[1], offset, shape, strides)
        if module == "torch" and name in _STORAGES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a file of weights")

    def persistent_load(self, pid: Any) -> Any:
        return pid


def read_state_dict(path: Path) -> dict[str, Array]:
    """The arrays of a legacy ``.pth`` file by name, each in row-major order."""
    with path.open("rb") as file:
        for _ in range(_PREAMBLE):
            _Reader(file).load()
        tensors = _Reader(file).load()
        keys = _Reader(file).load()
        dtypes: dict[str, np.dtype[Any]] = {key: _STORAGES[storage] for key, storage, *_ in tensors.values()}
        storages = {key: _read_storage(file, dtypes[key]) for key in keys}
    return {
        name: _view(storages[key][offset:], shape, strides)
        for name, (key, _, offset, shape, strides) in tensors.items()
    }


def _read_storage(file: IO[bytes], dtype: np.dtype[Any]) -> Array:
    (count,) = np.frombuffer(file.read(8), "<i8")
    return np.frombuffer(file.read(int(count) * dtype.itemsize), dtype)


def _view(storage: Array, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    steps = [stride * storage.itemsize for stride in strides]
    return np.ascontiguousarray(np.lib.stride_tricks.as_strided(storage, shape, steps))
