"""The bundled digit classifier with its data: ``python -m models.digits MODEL`` prints an accuracy."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort

from models.build import Array

FOLDER = Path(__file__).parent
MODEL = FOLDER / "model.onnx"
SIZE = 10_000
CALIBRATION_SIZE = 1_000

# What the network was trained with: pixels in [0, 1], then these.
_MEAN, _DEVIATION = 0.1307, 0.3081


def calibration_samples(count: int = 64) -> list[dict[str, Array]]:
    """``count`` feeds of one digit each, none of which :func:`evaluate` sees; ``count <= CALIBRATION_SIZE``."""
    if not 0 <= count <= CALIBRATION_SIZE:
        raise ValueError(f"count must lie in 0..{CALIBRATION_SIZE}, got {count}")
    images, _ = _split(slice(CALIBRATION_SIZE))
    return [{"input": _normalised(images[i : i + 1])} for i in range(count)]


def evaluate(model: Path | str) -> float:
    """Share of the 9000 held-back digits, in percent, that the model at this path reads right."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    images, labels = _split(slice(CALIBRATION_SIZE, None))
    right = sum(
        int((session.run(None, {"input": batch})[0].argmax(1) == truth).sum())
        for batch, truth in _batches(images, labels)
    )
    return 100 * right / len(labels)


def _batches(images: Array, labels: Array, size: int = 250) -> Iterator[tuple[Array, Array]]:
    for start in range(0, len(labels), size):
        yield _normalised(images[start : start + size]), labels[start : start + size]


def _split(part: slice) -> tuple[Array, Array]:
    order = np.random.default_rng(0).permutation(SIZE)[part]
    with np.load(FOLDER / "data.npz") as data:
        return data["x"][order], data["y"][order]


def _normalised(images: Array) -> Array:
    scaled = images[:, None].astype(np.float32) / 255
    return np.asarray((scaled - _MEAN) / _DEVIATION, np.float32)
