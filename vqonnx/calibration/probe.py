"""Run one sample and measure its tensors; what a worker, thread or process, does."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from vqonnx.calibration.feeds import Feed
from vqonnx.calibration.statistics import Statistic
from vqonnx.errors import SampleError, VerificationError
from vqonnx.runtime.package import runtime_errors
from vqonnx.runtime.session import open_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model that workers in other processes open; small, so that it travels with each sample.

    Attributes:
        path: File of the model; no two runs use the same name.
        providers: ONNX Runtime's execution providers.
        threads: Threads inside one operator; None leaves it to ONNX Runtime.
    """

    path: Path
    providers: tuple[str, ...]
    threads: int | None


Source: TypeAlias = "InferenceSession | ModelFile | None"
"""A model whose outputs are the wanted tensors; None when all of them are graph inputs."""


def measure(source: Source, empty: Mapping[str, Statistic], sample: int, feed: Feed) -> dict[str, Statistic]:
    """The statistics of one sample, by tensor.

    Args:
        source: What puts out the wanted tensors. The session of a file stays open in this process until that of
            another one replaces it.
        empty: The empty statistic of each wanted tensor.
        sample: Index of the sample, for messages.
        feed: Values of the graph inputs.

    Raises:
        SampleError: The model cannot run the sample.
    """
    tensors = dict(feed)
    if source is not None:
        session = _opened(source) if isinstance(source, ModelFile) else source
        names = [output.name for output in session.get_outputs()]
        try:
            with runtime_errors("run the model"):
                tensors.update(zip(names, session.run(names, dict(feed)), strict=True))
        except VerificationError as error:
            shapes = {name: np.shape(array) for name, array in feed.items()}
            raise SampleError(
                f"the model cannot run calibration sample {sample}, whose inputs have the shapes {shapes}: "
                f"{error.__cause__}. Repair the sample or drop it",
                sample=sample,
            ) from error
    found = {}
    for name, statistic in empty.items():
        with placed(name, sample):
            found[name] = statistic.of(tensors[name])
    return found


@contextlib.contextmanager
def placed(tensor: str, sample: int) -> Iterator[None]:
    """Let a statistic's error tell in which tensor and sample it came up."""
    try:
        yield
    except SampleError as error:
        raise SampleError(
            f"tensor {tensor!r} in calibration sample {sample}: {error}", sample=sample, tensor=tensor
        ) from error


def release() -> None:
    """Close the session that ``measure`` keeps open in this process."""
    _opened.cache_clear()


@functools.lru_cache(maxsize=1)
def _opened(model: ModelFile) -> "InferenceSession":
    return open_session(model.path, providers=model.providers, threads=model.threads)
