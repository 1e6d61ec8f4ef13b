"""Weight-only quantization as tests call it, and what they feed it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from models.registry import load as load_cases
from vqonnx import Report, quantize_weight_only


def pack(model: Any, path: Path, **arguments: Any) -> Report:
    """Without bars on the terminal."""
    return quantize_weight_only(model, path, **{"progress": lambda *_: None, **arguments})


def decoder_samples(count: int = 16) -> list[dict[str, np.ndarray]]:
    """Samples of 8 tokens for ``models.weights.decoder_with_cache`` and its like."""
    return list(replace(load_cases()["weights/cache"], sizes={"N": 8}).feeds(count))
