"""What the command line asked for."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """A folder with ``model.onnx`` and ``eval.py``, or the reason why it cannot be measured."""

    name: str
    folder: Path
    missing: str = ""

    @property
    def model(self) -> Path:
        """The float model."""
        return self.folder / "model.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Options of ``tools/bench.py``.

    Attributes:
        assets: Models to measure.
        repeat: Times that each quantization is repeated.
        samples: Calibration samples.
        rounds: Rounds of the latency measurement.
        full: Also what takes many minutes.
        work: Folder for files.
    """

    assets: tuple[Asset, ...]
    repeat: int
    samples: int
    rounds: int
    full: bool
    work: Path


def find_assets(folder: Path | None, only: tuple[str, ...]) -> tuple[Asset, ...]:
    """The assets of a folder whose names hold one of the texts ``only``; all of them if there is none."""
    if folder is None:
        return ()
    found = []
    for script in sorted(folder.glob("*/eval.py")):
        name = script.parent.name
        if only and not any(text in name for text in only):
            continue
        missing = "" if (script.parent / "model.onnx").exists() else "there is no model.onnx"
        found.append(Asset(name=name, folder=script.parent, missing=missing))
    return tuple(found)
