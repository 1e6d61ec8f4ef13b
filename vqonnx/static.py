"""Static quantization, the whole flow: float model and samples in, verified quantized model and report out."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from vqonnx.calibration.model import model_inputs
from vqonnx.calibration.readers import Reader, open_samples
from vqonnx.calibration.samples import Samples
from vqonnx.calibration.statistics import Statistic
from vqonnx.calibration.statistics.moving_average import MovingAverage
from vqonnx.core.plan import Plan
from vqonnx.core.solution import Solutions
from vqonnx.core.spec import RangeMethod
from vqonnx.graph.atomic import check_writable
from vqonnx.graph.io import ModelSource, load, save
from vqonnx.progress import Progress, silent
from vqonnx.quantizers.base import BaseQuantizer
from vqonnx.quantizers.opset import needed_opset
from vqonnx.quantizers.options import QuantizerOptions
from vqonnx.report.figures import Level, OutputFigures, Verification
from vqonnx.report.model import BiasCorrection, GuardAction, Report
from vqonnx.stages.compare import compare, compare_tensors
from vqonnx.stages.correct import correct, correctable
from vqonnx.stages.emit import emit
from vqonnx.stages.guard import collapsing_nodes, failing, noisiest_nodes
from vqonnx.stages.observe import ObserveOptions, Statistics, observe
from vqonnx.stages.plan import make_plan
from vqonnx.stages.prepare import Prepared, prepare
from vqonnx.stages.verify import VerifyOptions, verify
from vqonnx.version import __version__

_GUARD_ROUNDS = 8
_TRIAL_SAMPLES = 16
"""Held-back samples that decide between drafts; verification uses all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticJob:
    """What ``quantize_static`` was asked for, besides model, output and samples.

    Attributes:
        make: Makes the quantizer of a prepared model.
        options: The quantizer's options.
        guard: Whether what would collapse goes back to float.
        correct_bias: True, False, or None: where it helps on held-back samples.
        min_sqnr_db: An output below this counts as collapsed.
        level: How far the result is verified.
        providers: Execution providers of all sessions.
        executor: Runs calibration samples in its threads or processes.
        cache: File that keeps the statistics.
        external: Write tensors into a data file; None: when one file does not hold them.
        progress: Told how far each stage is.
    """

    make: Callable[[ir.Model], BaseQuantizer]
    options: QuantizerOptions
    guard: bool = True
    correct_bias: bool | None = None
    min_sqnr_db: float = 10.0
    level: Level = Level.COMPARED
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    executor: Executor | None = None
    cache: Path | None = None
    external: bool | None = None
    progress: Progress = silent


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A quantized model before it is written: its plan, its numbers, and how good it is on held-back samples."""

    plan: Plan
    solutions: Solutions
    figures: tuple[OutputFigures, ...] = ()

    @property
    def worst_db(self) -> float | None:
        """SQNR of the worst float output; None where nothing was compared."""
        return min((f.sqnr_db for f in self.figures if f.sqnr_db is not None), default=None)


def quantize_file(source: ModelSource, destination: Path, reader: Reader, job: StaticJob) -> Report:
    """Run every stage and write the result; the path holds the old file until the new one has been verified.

    Raises:
        VqonnxError: As ``api.quantize_static``.
    """
    check_writable(destination)
    clock = _Clock()
    with clock.stage("load"):
        model = load(source)
    with open_samples(reader, model_inputs(model)) as samples:
        with clock.stage("prepare"):
            prepared = prepare(model, opset=needed_opset(model, job.options))
        flow = _Flow(prepared, samples, job, clock)
        draft = flow.settled()
        verification = flow.written(draft, destination)
        return flow.report(draft, verification)


class _Clock:
    """Wall seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class _Flow:
    """The stages from plan to save, and the loop of guard and bias correction around them."""

    def __init__(self, prepared: Prepared, samples: Samples, job: StaticJob, clock: _Clock) -> None:
        self._prepared, self._model = prepared, prepared.model
        self._samples, self._job, self._clock = samples, job, clock
        self._statistics: dict[str, Statistic] = {}
        self._guard: list[GuardAction] = []
        self._correction: BiasCorrection | None = None

    def settled(self) -> Draft:
        """The draft that is to be written."""
        draft = self._drafted({})
        if self._job.guard:
            draft = self._without_collapse(draft)
        draft = self._compared(draft)
        draft = self._corrected(draft)
        return self._rescued(draft) if self._job.guard else draft

    def written(self, draft: Draft, destination: Path) -> Verification:
        """Save the draft; what is renamed to the destination at the end has been verified."""
        quantizer = self._quantizer(draft.plan)
        quantizer.solutions = draft.solutions
        found: list[Verification] = []

        def check(path: Path) -> None:
            with self._clock.stage("verify"):
                options = VerifyOptions(level=self._job.level, providers=self._job.providers)
                samples = self._samples.held_back
                found.append(
                    verify(self._model, path, samples, draft.plan, options=options, progress=self._job.progress)
                )

        with self._clock.stage("emit"):
            result = quantizer.result()
        save(result, destination, external=self._job.external, check=check)
        return found[0]

    def report(self, draft: Draft, verification: Verification) -> Report:
        """Everything that the user should know."""
        return Report(
            version=__version__,
            target=draft.plan.target,
            quantized=Counter(node.op_type for node in draft.plan.nodes.values()),
            skips=draft.plan.skips,
            verification=verification,
            guard=tuple(self._guard),
            bias_correction=self._correction,
            seconds=self._clock.seconds,
            samples=len(self._samples.calibration),
            min_sqnr_db=self._job.min_sqnr_db,
            notes=(),
        )

    def _quantizer(self, plan: Plan) -> BaseQuantizer:
        quantizer = self._job.make(self._model)
        quantizer.plan, quantizer.tensors_range = plan, dict(self._statistics)
        return quantizer

    def _drafted(self, floats: Mapping[str, str]) -> Draft:
        """Plan with some nodes left float, observe what is not known yet, and solve."""
        with self._clock.stage("plan"):
            rules = replace(self._job.options.rules, floats=floats)
            plan = make_plan(self._model, self._job.options.target, rules, self._prepared.folded)
        with self._clock.stage("observe"):
            self._observe(plan)
        with self._clock.stage("solve"):
            return Draft(plan, self._quantizer(plan).solve())

    def _observe(self, plan: Plan) -> None:
        wanted: dict[str, RangeMethod | Statistic] = {
            tensor.tensor: _statistic(tensor.method, self._job.options)
            for tensor in plan.activations()
            if tensor.method is not None and tensor.tensor not in self._statistics
        }
        if not wanted:
            return
        # A later round needs few tensors more, if any; the cache is for the first.
        cache = self._job.cache if not self._statistics else None
        options = ObserveOptions(
            providers=self._job.providers, executor=self._job.executor, progress=self._job.progress, cache=cache
        )
        observed: Statistics = observe(self._model, wanted, self._samples.calibration, options)
        self._statistics.update(observed.tensors)

    def _compared(self, draft: Draft) -> Draft:
        """The draft with its figures on held-back samples."""
        with self._clock.stage("compare"):
            quantized = emit(self._model, draft.plan, draft.solutions, contrib=self._job.options.contrib)
            samples = self._samples.held_back[:_TRIAL_SAMPLES]
            return replace(draft, figures=compare(self._model, quantized, samples, providers=self._job.providers))

    def _without_collapse(self, draft: Draft) -> Draft:
        """The draft without the nodes whose tensors the histograms show to collapse."""
        floats: dict[str, str] = {}
        for _ in range(_GUARD_ROUNDS):
            found = collapsing_nodes(draft.plan, draft.solutions, self._statistics)
            if not found:
                break
            floats |= found
            self._guard += [GuardAction(subject=node, action="kept float", reason=why) for node, why in found.items()]
            draft = self._drafted(floats)
        return draft

    def _corrected(self, draft: Draft) -> Draft:
        """The draft with corrected biases, if they help on held-back samples or were asked for."""
        layers = correctable(self._model, draft.plan)
        if self._job.correct_bias is False or not layers:
            return draft
        with self._clock.stage("correct"):
            samples = self._samples.calibration
            solutions = correct(self._model, draft.plan, draft.solutions, samples, progress=self._job.progress)
        better = self._compared(replace(draft, solutions=solutions))
        kept = self._job.correct_bias is True or (better.worst_db or 0.0) >= (draft.worst_db or 0.0)
        self._correction = BiasCorrection(
            method="empirical, layer after layer",
            kept=kept,
            before_db=draft.worst_db,
            after_db=better.worst_db,
            corrected=len(layers),
        )
        return better if kept else draft

    def _rescued(self, draft: Draft) -> Draft:
        """The draft with its noisiest nodes back in float, twice as many each round, until no output collapses."""
        floats = {action.subject: action.reason for action in self._guard}
        count = 1
        for _ in range(_GUARD_ROUNDS):
            if not failing(draft.figures, self._job.min_sqnr_db) or not draft.plan.nodes:
                break
            quantized = emit(self._model, draft.plan, draft.solutions, contrib=self._job.options.contrib)
            figures = compare_tensors(self._model, quantized, self._samples.held_back[:4])
            found = noisiest_nodes(self._model, draft.plan, figures, count)
            floats |= found
            better = self._corrected(self._compared(self._drafted(floats)))
            self._guard += [
                GuardAction(
                    subject=node, action="kept float", reason=why, before_db=draft.worst_db, after_db=better.worst_db
                )
                for node, why in found.items()
            ]
            draft, count = better, 2 * count
        return draft


def _statistic(method: RangeMethod, options: QuantizerOptions) -> RangeMethod | Statistic:
    if method is RangeMethod.MOVING_AVERAGE:
        return MovingAverage(rate=options.moving_average)
    return method
