"""Calibrated ranges in a JSON file that onnxruntime's quantizer reads and writes too."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from vqonnx.compat.calibrate.data import TensorData, TensorsData
from vqonnx.errors import CacheError, OptionError
from vqonnx.graph import atomic
from vqonnx.graph.pending import pending_files, synced_file


class MissingCacheError(CacheError, FileNotFoundError):
    """There is no calibration cache at the path."""


class CalibrationCacheEncoder(json.JSONEncoder):
    """JSON of calibration data: arrays as ``{"data", "dtype", "CLS": "numpy.array"}``, methods by name."""

    def default(self, o: Any) -> Any:
        """``o`` as what JSON has."""
        if isinstance(o, TensorData | TensorsData):
            return o.to_dict()
        if isinstance(o, np.ndarray):
            return {"data": o.tolist(), "dtype": str(o.dtype), "CLS": "numpy.array"}
        if type(o).__name__ == "CalibrationMethod":  # ours, or onnxruntime's
            return {"CLS": "CalibrationMethod", "value": str(o)}
        return o.item() if isinstance(o, np.generic) else super().default(o)


@dataclass(frozen=True, slots=True)
class CacheOrigin:
    """What ranges in a cache were made of.

    Attributes:
        smooth_quant: Whether the model went through SmoothQuant first; files that do not say so come from one that
            did not.
        model: Digest of the model (``calibration.model.model_digest``); None in files of onnxruntime.
    """

    smooth_quant: bool = False
    model: str | None = None


def save_tensors_data(
    tensors_data: TensorsData, path: str | PathLike[str], *, smooth_quant: bool = False, model: str | None = None
) -> None:
    """Write ranges to a JSON file in one step; its folder is made.

    Args:
        tensors_data: What to write.
        path: The file.
        smooth_quant: See ``CacheOrigin``.
        model: See there; onnxruntime reads over it.

    Raises:
        OutputError: The path cannot be written.
    """
    target = Path(path)
    with atomic.as_output_error(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    origin = {"smooth_quant": smooth_quant} | ({} if model is None else {"model": model})
    text = json.dumps({**tensors_data.to_dict(), **origin}, cls=CalibrationCacheEncoder)
    write_file(target, text.encode())


def load_tensors_data(path: str | PathLike[str]) -> TensorsData:
    """The ranges that ``save_tensors_data`` wrote.

    Raises:
        MissingCacheError: There is no file; also a FileNotFoundError.
        OptionError: The path is a folder.
        CacheError: The file is cut off, or is something else.
    """
    with _damaged(Path(path)):
        return TensorsData.from_dict(_read(Path(path)))


def load_origin(path: str | PathLike[str]) -> CacheOrigin:
    """What the ranges in a cache were made of.

    Raises:
        VqonnxError: As ``load_tensors_data``.
    """
    with _damaged(Path(path)):
        content = _read(Path(path))
        return CacheOrigin(bool(content.get("smooth_quant", False)), content.get("model"))


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return content


@contextlib.contextmanager
def _damaged(file: Path) -> Iterator[None]:
    """Turn what reading a file may raise into errors that name it."""
    if not file.exists():
        raise MissingCacheError(
            f"there is no calibration cache at {str(file)!r}; calibrate first (save_tensors_data writes it)",
            path=str(file),
        )
    if not file.is_file():
        raise OptionError(f"calibration cache {str(file)!r} is not a file; give the path of one", option="path")
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise CacheError(
            f"calibration cache {str(file)!r} is damaged or no cache ({type(error).__name__}: {error}); delete it and "
            "calibrate again",
            path=str(file),
        ) from error


def write_file(target: Path, content: bytes) -> None:
    """Write ``content`` to ``target``, which holds the old file until the new one is complete.

    Raises:
        OutputError: The path cannot be written.
    """
    with pending_files(target) as files:
        draft = files.new(target)
        with synced_file(draft) as file:
            file.write(content)
        files.place(draft, target)
