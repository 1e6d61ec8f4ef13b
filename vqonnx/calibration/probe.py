"""Run samples and measure their tensors; what a worker, thread or process, does."""

import contextlib
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from vqonnx.calibration.feeds import Array, Feed
from vqonnx.calibration.statistics import Statistic
from vqonnx.calibration.survey import Span, Survey, Surveyor
from vqonnx.calibration.trips import TripOutputs
from vqonnx.errors import SampleError, VerificationError
from vqonnx.runtime.blocked import Outputs, outputs_of
from vqonnx.runtime.session import open_session


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model that workers in other processes open; small, so that it travels with each sample.

    Attributes:
        path: File of the model; no two runs use the same name.
        sequences: File of the same for Loops whose trips differ; None where no Loop's values are wanted.
        providers: ONNX Runtime's execution providers.
        threads: Threads inside one operator; None leaves it to ONNX Runtime.
        optimize: Whether ONNX Runtime rewrites the graph.
    """

    path: Path
    sequences: Path | None
    providers: tuple[str, ...]
    threads: int | None
    optimize: bool = True


Source: TypeAlias = Outputs | TripOutputs | ModelFile | None
"""A model whose outputs are the wanted tensors; None when all of them are graph inputs."""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What a worker is to do at a time; no result depends on how samples are divided into tasks.

    Attributes:
        source: What puts out the wanted tensors. The session of a file stays open in its process until that of
            another one replaces it.
        spans: What is asked of the tensors whose elements may come in any order.
        empty: The empty statistic of each other wanted tensor.
        samples: Number of each sample, for messages, and the values of its graph inputs.
    """

    source: Source
    spans: Mapping[str, Span]
    empty: Mapping[str, Statistic]
    samples: Sequence[tuple[int, Feed]]


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What a worker found.

    Attributes:
        surveys: Of each tensor whose elements may come in any order.
        statistics: For each sample, in order, the statistics of the other tensors.
        seconds: How long it took.
        error: Why the sample after the last of ``statistics`` could not be measured; it ends the task.
    """

    surveys: Mapping[str, Survey]
    statistics: Sequence[Mapping[str, Statistic]]
    seconds: float
    error: SampleError | None = None

    def losses(self) -> dict[str, list[int]]:
        """For each tensor that has NaN or infinite elements their number in each sample of ``statistics``."""
        lost = {name: list(survey.lost) for name, survey in self.surveys.items()}
        for name in self.statistics[0] if self.statistics else ():
            lost[name] = [found[name].dropped for found in self.statistics]
        return {name: numbers for name, numbers in lost.items() if any(numbers)}


def measure(task: Task) -> Measured:
    """Run the samples of ``task`` and measure their tensors."""
    start = time.perf_counter()
    surveyor, error = Surveyor(task.spans), None
    statistics: list[dict[str, Statistic]] = []
    for sample, feed in task.samples:
        try:
            statistics.append(_measured(task, surveyor, sample, feed))
        except SampleError as caught:
            error = caught  # samples before it are measured all the same
            break
    return Measured(surveyor.surveys(), statistics, time.perf_counter() - start, error)


def _measured(task: Task, surveyor: Surveyor, sample: int, feed: Feed) -> dict[str, Statistic]:
    """Run one sample and add it to the survey; a function, so that its tensors are gone when the next one runs."""
    tensors = _run(task.source, sample, feed)
    found = {}
    for name, statistic in task.empty.items():
        with placed(name, sample):
            found[name] = statistic.of(tensors[name])
    surveyor.add(tensors)
    return found


def _run(source: Source, sample: int, feed: Feed) -> dict[str, Array]:
    """The wanted tensors, and the graph inputs."""
    tensors = dict(feed)
    if source is None:
        return tensors
    outputs = _opened(source) if isinstance(source, ModelFile) else source
    with running(sample, feed):
        tensors.update(outputs.run(feed))
    return tensors


@contextlib.contextmanager
def running(sample: int, feed: Feed) -> Iterator[None]:
    """Let ONNX Runtime's refusal to run the block tell which sample it was."""
    try:
        yield
    except VerificationError as error:
        shapes = {name: np.shape(array) for name, array in feed.items()}
        raise SampleError(
            f"the model cannot run calibration sample {sample}, whose inputs have the shapes {shapes}: "
            f"{error.__cause__ or error}. Repair the sample or drop it",
            sample=sample,
        ) from error


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
def _opened(model: ModelFile) -> Outputs | TripOutputs:
    def open_outputs(path: Path) -> Outputs:
        return outputs_of(open_session(path, providers=model.providers, threads=model.threads, optimize=model.optimize))

    outputs = open_outputs(model.path)
    return (
        outputs if model.sequences is None else TripOutputs(outputs, functools.partial(open_outputs, model.sequences))
    )
