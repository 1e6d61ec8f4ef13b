"""Run the prepared float model on the calibration samples and keep statistics of its tensors."""

import hashlib
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from vqonnx.calibration.feeds import Feed
from vqonnx.calibration.grouping import grouped, tensor_bytes
from vqonnx.calibration.model import exposing, model_digest, observable_values, refuse_unobservable
from vqonnx.calibration.probe import Measured, ModelFile, Source, Task, measure, placed, release
from vqonnx.calibration.samples import Feeds, feeds_digest
from vqonnx.calibration.statistics import Statistic, empty_statistic
from vqonnx.calibration.statistics.base import Unordered
from vqonnx.calibration.store import CacheKey, Partial, load_statistics, save_statistics
from vqonnx.calibration.survey import Span
from vqonnx.calibration.trips import in_loops, opened
from vqonnx.core.spec import RangeMethod
from vqonnx.errors import OptionError, SampleError
from vqonnx.graph.atomic import check_writable
from vqonnx.graph.io import save
from vqonnx.kernels.parallel import processors
from vqonnx.progress import Progress, silent
from vqonnx.runtime.blocked import Outputs, open_blocked, outputs_of
from vqonnx.runtime.session import open_session
from vqonnx.stages.broken_weights import weights_blamed

Wanted = Mapping[str, RangeMethod | str | Statistic]
"""For each tensor: the method that will choose its range, the name of a statistic, or an empty statistic."""

_SAVE_SECONDS = 10.0
_WINDOW = 2 * processors()
_CPU = ("CPUExecutionProvider",)
_TASK_SECONDS = 0.1
_TASK_SAMPLES = 8
_BLOCKED_FROM = 24
"""Samples; for fewer, the second session costs more than the copies it saves (20 ms to 1.4 ms for MobileNetV2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserveOptions:
    """How ``observe`` runs the model; none of it changes the result, but for rounding where ``optimize`` is off.

    Attributes:
        providers: ONNX Runtime's execution providers, best first.
        workers: Samples that run at a time, one thread each; by default one a core. (One thread a run, because
            samples side by side need no waiting for each other, and sums come out the same on any machine.)
        executor: Runs the samples instead, in threads or processes.
        progress: Told of each finished sample.
        cache: File that keeps the statistics, and lets an interrupted run go on where it was.
        memory_budget: Bytes of tensors that are fetched at a time; if all wanted ones need more, the samples run
            several times. Sizes are those of the first sample.
        nonfinite: Whether NaN and infinity in an activation are an error, or are left out and counted.
        optimize: Let ONNX Runtime rewrite the graph, which is faster and rounds otherwise here and there.
    """

    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    workers: int | None = None
    executor: Executor | None = None
    progress: Progress = silent
    cache: Path | None = None
    memory_budget: int = 1 << 30
    nonfinite: Literal["error", "ignore"] = "error"
    optimize: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Statistics:
    """What was observed.

    Attributes:
        tensors: A statistic for each wanted tensor.
        samples: Number of samples.
    """

    tensors: Mapping[str, Statistic]
    samples: int


def observe(
    model: ir.Model, wanted: Wanted, samples: Sequence[Feed], options: ObserveOptions | None = None
) -> Statistics:
    """Statistics of the tensors ``wanted`` over ``samples``; the same bytes whoever runs the samples.

    Every sample runs once, in one optimized session, and its tensors are dropped when they are measured.

    Raises:
        OptionError: A wanted name is no float tensor, or names no statistic; or one that needs the tensor's shape, of a
            tensor in a body of If, Loop or Scan.
        SampleError: There are no samples, the model cannot run one, or NaN or infinity comes up.
        QuantRangeError: It comes up because a weight holds it.
        CacheError: ``options.cache`` is damaged or belongs to another run.
        OutputError: ``options.cache`` cannot be written.
    """
    options = options or ObserveOptions()
    refuse_unobservable(model, wanted)
    if not samples:
        raise SampleError("there is no calibration sample to observe; pass at least one")
    empty = {name: empty_statistic(statistic) for name, statistic in wanted.items()}
    _refuse_shapeless(model, empty)
    # Messages count as the reader did, which also gave the samples that are held back.
    numbers = samples.indices if isinstance(samples, Feeds) else range(len(samples))
    if options.cache is not None:
        check_writable(options.cache)
    ledger = _Ledger(options, _cache_key(model, empty, samples, options), empty)
    with ExitStack() as stack:
        stack.enter_context(weights_blamed(model))
        stack.callback(release)
        executor = options.executor or stack.enter_context(ThreadPoolExecutor(_workers(options)))
        for done, names in _passes(model, ledger, samples, options):
            source = _source(model, {name: empty[name] for name in names}, len(samples) - done, options, stack)

            def task(positions: range, source: Source = source, names: Sequence[str] = names) -> Task:
                feeds = [(numbers[position], samples[position]) for position in positions]
                return Task(source, *ledger.asked(names), feeds)

            with closing(_in_order(executor, task, range(done, len(samples)))) as results:
                for positions, measured in results:
                    ledger.add(positions, numbers, measured)
                    for position in positions:
                        options.progress("observe", position + 1, len(samples))
                    ledger.save_sometimes()
    ledger.save()
    return Statistics({name: part.statistic for name, part in ledger.partials.items()}, len(samples))


class _Ledger:
    """What is known so far, and its copy on disk."""

    def __init__(self, options: ObserveOptions, key: CacheKey | None, empty: Mapping[str, Statistic]) -> None:
        self._nonfinite, self._path, self._key = options.nonfinite, options.cache, key
        self.partials = {name: Partial(statistic) for name, statistic in empty.items()}
        self._empty = empty
        if self._path is not None and key is not None:
            self.partials |= load_statistics(self._path, key) or {}
        self._saved = time.monotonic()

    def asked(self, names: Sequence[str]) -> tuple[dict[str, Span], dict[str, Statistic]]:
        """What to survey and what to measure otherwise of the tensors ``names`` in further samples."""
        known = {name: self.partials[name].statistic for name in names}
        spans = {name: statistic.span() for name, statistic in known.items() if isinstance(statistic, Unordered)}
        return spans, {name: self._empty[name] for name in names if name not in spans}

    def add(self, positions: range, numbers: Sequence[int], measured: Measured) -> None:
        """Fold in what was found in the samples ``positions``, which come in order; ``numbers`` is for messages."""
        losses = {} if self._nonfinite == "ignore" else measured.losses()
        done = positions.start + len(measured.statistics)
        for k, found in enumerate(measured.statistics):
            number = numbers[positions[k]]
            _refuse(losses, k, number)
            for name, statistic in found.items():
                with placed(name, number):
                    self.partials[name] = Partial(self.partials[name].statistic.merge(statistic), done)
        if measured.error is not None:
            raise measured.error
        for name, survey in measured.surveys.items():
            known = self.partials[name].statistic
            if isinstance(known, Unordered):
                self.partials[name] = Partial(known.after(survey), done)

    def save_sometimes(self) -> None:
        """Write the copy, if the last one is old."""
        if time.monotonic() - self._saved > _SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the copy, if there is to be one."""
        if self._path is not None and self._key is not None:
            save_statistics(self._path, self._key, self.partials)
        self._saved = time.monotonic()


def _passes(
    model: ir.Model, ledger: _Ledger, samples: Sequence[Feed], options: ObserveOptions
) -> Iterator[tuple[int, list[str]]]:
    """The tensors of each pass over the samples, and the sample at which it begins."""
    unfinished: dict[int, list[str]] = {}
    for name, part in ledger.partials.items():
        if part.done < len(samples):
            unfinished.setdefault(part.done, []).append(name)
    for done, names in sorted(unfinished.items()):
        sizes = tensor_bytes(model, names, samples[0])
        for group in grouped(sizes, options.memory_budget // _workers(options)):
            yield done, group


def _source(
    model: ir.Model, wanted: Mapping[str, Statistic], samples: int, options: ObserveOptions, stack: ExitStack
) -> Source:
    """What puts out the tensors ``wanted``: a session for threads, a file for processes."""
    given = {value.name for value in model.graph.inputs}
    made = [name for name in wanted if name not in given]
    if not made:
        return None
    threads = 1 if options.providers == _CPU else None
    if options.executor is None or isinstance(options.executor, ThreadPoolExecutor):
        free = [name for name in made if isinstance(wanted[name], Unordered)]
        may_block = free and samples >= _BLOCKED_FROM and options.providers == _CPU and options.optimize

        def open_outputs(exposed: ir.Model) -> Outputs:
            blocked = open_blocked(exposed, free, threads=threads) if may_block else None
            return blocked or outputs_of(
                open_session(exposed, providers=options.providers, threads=threads, optimize=options.optimize)
            )

        return opened(model, made, open_outputs)
    # Workers may still hold the file when the folder goes.
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="vqonnx-", ignore_cleanup_errors=True))
    path = Path(folder) / "model.onnx"
    save(exposing(model, made, stacked=True), path)
    sequences = Path(folder) / "sequences.onnx" if in_loops(model, made) else None
    if sequences is not None:
        save(exposing(model, made), sequences)
    return ModelFile(path, sequences, options.providers, threads, options.optimize)


def _in_order(
    executor: Executor, task: Callable[[range], Task], positions: range
) -> Generator[tuple[range, Measured], None, None]:
    """What is found in the samples ``positions``, in order; only a few tasks are under way at a time.

    Tasks take a tenth of a second, as far as that is known, and get shorter to the end, so that all workers finish
    together.
    """
    pending: deque[tuple[range, Future[Measured]]] = deque()
    size = 1
    try:
        while positions or pending:
            if positions and len(pending) <= _WINDOW:
                count = min(size, -(-len(positions) // (2 * _WINDOW)))
                part, positions = positions[:count], positions[count:]
                pending.append((part, executor.submit(measure, task(part))))
                continue
            part, future = pending.popleft()
            measured = future.result()
            size = max(1, min(_TASK_SAMPLES, int(_TASK_SECONDS * len(part) / max(measured.seconds, 1e-6))))
            yield part, measured
    finally:
        for _, future in pending:
            future.cancel()


def _refuse_shapeless(model: ir.Model, empty: Mapping[str, Statistic]) -> None:
    """Values in bodies are observed as vectors of all that a sample's runs of the body gave."""
    shaped = [name for name, statistic in empty.items() if statistic.shaped]
    main = observable_values(model) if shaped else {}
    for name in shaped:
        if name not in main:
            raise OptionError(
                f"cannot observe {empty[name].name!r} of {name!r}: it is inside a body of If, Loop or Scan, whose runs "
                "need not give one shape. Ask for a statistic of its elements, such as 'minmax'",
                option="wanted",
            )


def _refuse(losses: Mapping[str, Sequence[int]], position: int, sample: int) -> None:
    for name, lost in losses.items():
        if lost[position]:
            raise SampleError(
                f"tensor {name!r} has {lost[position]} NaN or infinite elements in calibration sample {sample}; "
                "repair or drop the sample, or exclude the nodes around the tensor (nodes_to_exclude)",
                sample=sample,
                tensor=name,
            )


def _workers(options: ObserveOptions) -> int:
    if options.workers is not None:
        return options.workers
    return processors() if options.providers == _CPU else 1


def _cache_key(
    model: ir.Model, empty: Mapping[str, Statistic], samples: Sequence[Feed], options: ObserveOptions
) -> CacheKey | None:
    if options.cache is None:
        return None
    wanted = hashlib.blake2b(f"{options.nonfinite} {options.optimize}".encode(), digest_size=20)
    for name, statistic in sorted(empty.items()):
        fields = {field: array.tolist() for field, array in statistic.arrays().items()}
        wanted.update(repr((name, statistic.name, fields)).encode())
    return CacheKey(model_digest(model), wanted.hexdigest(), feeds_digest(samples))
