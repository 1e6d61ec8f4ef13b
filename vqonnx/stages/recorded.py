"""What a large float model gives, kept on disk: it runs once, and is closed before its quantized form is opened."""

import shutil
import statistics
import tempfile
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from vqonnx.calibration.feeds import Feed
from vqonnx.calibration.samples import feeds_digest
from vqonnx.graph.proto import initialized_values
from vqonnx.runtime.package import runtime_errors
from vqonnx.runtime.session import open_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

LARGE = 1 << 30
"""Bytes of tensors from which on two sessions at a time are too many: ONNX Runtime packs the weights of each anew."""

_KEPT = frozenset(
    f"tensor({name})" for name in ("float", "float16", "double", "int8", "uint8", "int32", "int64", "bool")
)


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output as a session tells of it."""

    name: str
    type: str
    shape: Sequence[int | str | None]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class RecordedModel:
    """Stands for a session over a float model, for the samples that it was run on.

    Attributes:
        inputs: The model's.
        outputs: The model's.
        seconds: Median time of a run.
        folder: Where the results lie; it goes with this object.
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    seconds: float
    folder: Path

    @classmethod
    def of_large(
        cls, model: ir.Model, samples: Iterable[Feed], *, providers: Sequence[str], large: int = LARGE
    ) -> "RecordedModel | None":
        """Run a model of ``large`` bytes or more; None for a smaller one, and for outputs that are no plain tensors.

        Raises:
            VerificationError: It does not load, or does not run on a sample.
        """
        if sum(tensor.nbytes for _, tensor in initialized_values(model)) < large:
            return None
        session = open_session(model, providers=providers)
        outputs = tuple(Port(one.name, one.type, one.shape) for one in session.get_outputs())
        if not {port.type for port in outputs} <= _KEPT:
            return None
        inputs = tuple(Port(one.name, one.type, one.shape) for one in session.get_inputs())
        folder = Path(tempfile.mkdtemp(prefix="vqonnx-recorded-"))
        try:
            seconds = [_recorded(session, feed, k, folder) for k, feed in enumerate(samples)]
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        made = cls(inputs, outputs, statistics.median(seconds[1:] or seconds or [0.0]), folder)
        weakref.finalize(made, shutil.rmtree, folder, ignore_errors=True)
        return made

    def get_inputs(self) -> tuple[Port, ...]:
        """As of a session."""
        return self.inputs

    def get_outputs(self) -> tuple[Port, ...]:
        """As of a session."""
        return self.outputs

    def run(self, names: Sequence[str], feed: Mapping[str, Any]) -> list[object]:
        """The outputs of that name for a sample that was recorded."""
        with np.load(_place(self.folder, feed)) as file:
            kept = dict(zip((port.name for port in self.outputs), (file[key] for key in file.files), strict=True))
        return [kept[name] for name in names]


def _recorded(session: "InferenceSession", feed: Feed, sample: int, folder: Path) -> float:
    """Keep what the session gives, and tell how long that took."""
    started = time.perf_counter()
    with runtime_errors(f"run the float model on held-back sample {sample}"):
        results = session.run(None, dict(feed))
    seconds = time.perf_counter() - started
    np.savez(_place(folder, feed), *results)
    return seconds


def _place(folder: Path, feed: Feed) -> Path:
    return folder / f"{feeds_digest([feed])}.npz"
