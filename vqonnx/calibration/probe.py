"""Run one sample and measure its tensors; what a worker, thread or process, does."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from vqonnx.calibration.feeds import Array, Feed
from vqonnx.calibration.statistics import Statistic
from vqonnx.errors import SampleError


@dataclass(frozen=True, slots=True)
class Probe:
    """What to run and what to measure; small, so that it travels to other processes.

    Attributes:
        model: File of a model whose outputs are the wanted tensors; None when all of them are graph inputs.
        empty: The empty statistic of each wanted tensor.
        providers: ONNX Runtime's execution providers.
        threads: Threads that one run uses.
    """

    model: Path | None
    empty: Mapping[str, Statistic]
    providers: tuple[str, ...]
    threads: int


def measure(probe: Probe, sample: int, feed: Feed) -> dict[str, Statistic]:
    """The statistics of one sample, by tensor.

    Raises:
        SampleError: The model cannot run the sample.
    """
    tensors = dict(feed)
    if probe.model is not None:
        session = _session(probe.model, probe.providers, probe.threads)
        names = [output.name for output in session.get_outputs()]
        try:
            tensors.update(zip(names, session.run(names, dict(feed)), strict=True))
        except _RUN_ERRORS as error:
            shapes = {name: np.shape(array) for name, array in feed.items()}
            raise SampleError(
                f"the model cannot run calibration sample {sample}, with inputs of shapes {shapes}: {error}",
                sample=sample,
            ) from error
    return {name: empty.of(tensors[name]) for name, empty in probe.empty.items()}


def run_once(model: Path, feed: Feed) -> list[Array]:
    """The outputs of the model at ``model`` for ``feed``, on the CPU."""
    session = open_session(model, ("CPUExecutionProvider",), 0)
    outputs: list[Array] = session.run(None, dict(feed))
    return outputs


def release() -> None:
    """Close the session that ``measure`` keeps open from one sample to the next in this process."""
    _session.cache_clear()


def open_session(model: Path, providers: tuple[str, ...], threads: int) -> ort.InferenceSession:
    """An optimized session of the model at ``model``; 0 threads means ONNX Runtime's choice."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(str(model), options, providers=list(providers))


_session = functools.lru_cache(maxsize=1)(open_session)

_RUN_ERRORS = (ort_errors.Fail, ort_errors.InvalidArgument, ort_errors.RuntimeException)
