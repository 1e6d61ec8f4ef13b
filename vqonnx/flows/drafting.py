"""From a prepared model to the draft that is worth writing: candidates, the guard, and bias correction."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from vqonnx.calibration.dropped import warn_of_dropped
from vqonnx.calibration.samples import Samples
from vqonnx.calibration.statistics import Statistic
from vqonnx.calibration.statistics.moving_average import MovingAverage
from vqonnx.calibration.statistics.position_votes import PositionVotes
from vqonnx.calibration.statistics.profile import Profile
from vqonnx.core.params import QuantParams
from vqonnx.core.plan import Plan
from vqonnx.core.solution import Solutions
from vqonnx.core.spec import QuantSpec, RangeMethod, ScaleGrid
from vqonnx.flows.clock import Clock
from vqonnx.flows.job import Correction, Draft, Guard, StaticJob
from vqonnx.planning.output_ranges import with_whole_outputs
from vqonnx.quantizers.base import BaseQuantizer
from vqonnx.quantizers.refinement import start_params
from vqonnx.report.model import BiasCorrection, GuardAction
from vqonnx.stages.compare import compare
from vqonnx.stages.correct import correct, correctable
from vqonnx.stages.correct_bodies import correct_bodies, correctable_inside
from vqonnx.stages.correct_fast import correct_fast
from vqonnx.stages.emit import emit
from vqonnx.stages.guard import collapsing_nodes
from vqonnx.stages.observe import ObserveOptions, observe
from vqonnx.stages.plan import make_plan
from vqonnx.stages.prepare import Prepared
from vqonnx.stages.recorded import RecordedModel
from vqonnx.stages.search_positions import searched_params
from vqonnx.stages.sensitivity import sensitivities
from vqonnx.stages.unseen import unseen_nodes
from vqonnx.stages.verify import model_bytes

_GUARD_ROUNDS = 8
_TRIAL_SAMPLES = 16
"""Held-back samples that decide between drafts; verification uses all."""
_CORRECTION_SAMPLES = 32
"""Calibration samples that biases are corrected on: means need fewer than ranges."""
_FEW_INSIDE = 16
"""Layers in bodies that the whole model runs for; more are corrected from the means of their inputs."""
_SEARCH_SAMPLES = 8
"""Calibration samples by which positions are searched."""
_BLAME_SAMPLES = 2
_NEAR_DB = 6.0
"""An output this close to collapse is worth a few float nodes …"""
_GAIN_DB = 3.0
"""… if each step gains this much."""
_FEW_NODES = 4
_SMALL_BYTES = 1 << 28
"""… and the model is small: the search opens a session for each operator, 2.4 s each for 650 MB."""


@dataclass(frozen=True, slots=True, eq=False)
class Drafting:
    """Makes drafts of one prepared model; each method takes one and returns another.

    Attributes:
        prepared: The float model.
        samples: Those that calibrate, and those held back.
        job: What was asked for.
        clock: Takes the time.
        statistics: What was observed so far, by tensor.
        first: The numbers of the first draft, whose codes later ones share.
        reference: The float model that drafts are compared with, where it is not the prepared one.
        recorded: What that model gives for the held-back samples, where it is large.
    """

    prepared: Prepared
    samples: Samples
    job: StaticJob
    clock: Clock
    statistics: dict[str, Statistic] = field(default_factory=dict)
    first: list[Solutions] = field(default_factory=list)
    reference: ir.Model | None = None
    recorded: RecordedModel | None = None

    def uncorrected_db(self) -> float:
        """SQNR on held-back samples of the first method's draft, before anything is done about it."""
        return self._compared(self._drafted(self.job.options.methods[0], {})).worst_db

    def best(self) -> Draft:
        """The best draft of all range methods, without collapsed outputs if the guard can help it."""
        draft = max((self._finished(method) for method in self.job.options.methods), key=lambda one: one.worst_db)
        return self._rescued(draft) if self.job.guard is Guard.OUTPUTS else draft

    def quantizer(self, plan: Plan) -> BaseQuantizer:
        """The user's quantizer, with the plan and what was observed."""
        quantizer = self.job.make(self.prepared.model)
        quantizer.plan, quantizer.tensors_range = plan, dict(self.statistics)
        return quantizer

    def _finished(self, method: RangeMethod) -> Draft:
        draft = self._drafted(method, {})
        if self.job.guard is not Guard.OFF:
            draft = self._without_collapse(draft)
        return self._corrected(self._compared(draft)) if self._chooses else draft

    @property
    def _chooses(self) -> bool:
        """Whether figures decide anything; else the model, which may be for another provider, need not run yet."""
        several = len(self.job.options.methods) > 1
        return several or self.job.guard is Guard.OUTPUTS or self.job.correction is not Correction.OFF

    def _drafted(self, method: RangeMethod, floats: Mapping[str, str]) -> Draft:
        """Plan with some nodes left float, observe what is not known yet, and solve."""
        plan = self._observed_plan(method, floats)
        quantizer = self.quantizer(plan)
        if self.job.options.rules.activation.grid is ScaleGrid.POWER_OF_TWO:
            with self.clock.stage("refine"):
                quantizer.refine(self._searched(quantizer))
        with self.clock.stage("solve"):
            solutions = quantizer.solve()
            # Range methods for activations leave weights what they are.
            solutions = solutions.sharing(self.first[0]) if self.first else solutions
            if not self.first:
                self.first.append(solutions)
        return Draft(method=method, plan=quantizer.current_plan(), solutions=solutions, refinement=quantizer.refinement)

    def _observed_plan(self, method: RangeMethod, floats: Mapping[str, str]) -> Plan:
        """The plan whose tensors have been observed: what no sample ran stays float too."""
        with self.clock.stage("plan"):
            rules = replace(self.job.options.rules, method=method, floats=floats)
            plan = make_plan(self.prepared.model, self.job.options.target, rules, self.prepared.folded)
            if len(self.job.options.methods) > 1:
                plan = with_whole_outputs(self.prepared.model, plan)
        with self.clock.stage("observe"):
            self._observe(plan)
        unseen = unseen_nodes(self.prepared.model, plan, self.statistics)
        return self._observed_plan(method, {**floats, **unseen}) if unseen else plan

    def _searched(self, quantizer: BaseQuantizer) -> dict[str, QuantParams]:
        """Positions of weights and biases by the error that they leave in what their nodes compute."""
        plan, feeds = quantizer.current_plan(), self.samples.calibration
        options = ObserveOptions(providers=self.job.providers, executor=self.job.executor)
        some = feeds[:: max(1, len(feeds) // _SEARCH_SAMPLES)][:_SEARCH_SAMPLES]
        found = searched_params(self.prepared.model, plan, start_params(quantizer), some, options)
        given = {key for key, tensor in plan.tensors.items() if tensor.fixed is not None or tensor.bounds is not None}
        return {key: params for key, params in found.items() if key not in given}

    def _observe(self, plan: Plan) -> None:
        wanted = {
            tensor.tensor: self._statistic(tensor.method, tensor.spec)
            for tensor in plan.activations()
            if tensor.method is not None and tensor.tensor not in self.statistics
        }
        if not wanted:
            return
        options = ObserveOptions(
            providers=self.job.providers,
            executor=self.job.executor,
            progress=self.job.progress,
            cache=self.job.cache if not self.statistics else None,  # a later round needs few tensors, if any
            nonfinite="ignore" if self.job.options.target.as_given else "error",
        )
        observed = observe(self.prepared.model, wanted, self.samples.calibration, options)
        warn_of_dropped(observed.tensors, stacklevel=2)
        self.statistics.update(observed.tensors)

    def _statistic(self, method: RangeMethod, spec: QuantSpec) -> RangeMethod | Statistic:
        """What serves the method, and the others that are tried too."""
        if len(self.job.options.methods) > 1:
            return Profile()
        if method is RangeMethod.MOVING_AVERAGE:
            return MovingAverage(rate=self.job.options.moving_average)
        if method is RangeMethod.MOST_COMMON:
            return PositionVotes.of_spec(spec)
        return method

    def _emitted(self, draft: Draft) -> ir.Model:
        return emit(self.prepared.model, draft.plan.on_cpu(), draft.solutions)

    def _compared(self, draft: Draft) -> Draft:
        """The draft with its figures on held-back samples."""
        with self.clock.stage("compare"):
            samples = self.samples.held_back[:_TRIAL_SAMPLES]
            reference = self.recorded or self.reference or self.prepared.model
            figures = compare(reference, self._emitted(draft), samples, providers=self.job.providers)
            return replace(draft, figures=figures)

    def _without_collapse(self, draft: Draft) -> Draft:
        """The draft without the nodes whose tensors the histograms show to collapse."""
        for _ in range(_GUARD_ROUNDS):
            found = collapsing_nodes(draft.plan, draft.solutions, self.statistics)
            if not found:
                break
            actions = [GuardAction(subject=node, action="kept float", reason=why) for node, why in found.items()]
            without = self._drafted(draft.method, draft.floats | found)
            draft = replace(without, guard=(*draft.guard, *actions))
        return draft

    def _corrected(self, draft: Draft) -> Draft:
        """The draft with corrected biases, if they help on held-back samples or were asked for."""
        if self.job.correction is Correction.OFF:
            return draft
        tried = [(self._compared(replace(draft, solutions=found)), count) for found, count in self._corrections(draft)]
        if not tried:
            return draft
        auto = self.job.correction is Correction.AUTO
        better, count = max(tried, key=lambda one: one[0].worst_db) if auto else tried[-1]
        kept = not auto or better.worst_db >= draft.worst_db
        correction = BiasCorrection(
            method="from input means" if self.job.correction is Correction.FAST else "measured, layer after layer",
            kept=kept,
            before_db=draft.worst_db,
            after_db=better.worst_db,
            corrected=count,
        )
        return replace(better if kept else draft, correction=correction)

    def _corrections(self, draft: Draft) -> Iterator[tuple[Solutions, int]]:
        """The numbers with corrected biases, and of how many: first of the main graph, then of bodies too."""
        model, plan, progress = self.prepared.model, draft.plan, self.job.progress
        samples = self.samples.calibration[:: -(-len(self.samples.calibration) // _CORRECTION_SAMPLES)]
        main, inside = len(correctable(model, plan)), len(correctable_inside(model, plan))

        def fast(found: Solutions) -> Solutions:
            return correct_fast(model, plan, found, samples)

        def main_graph(found: Solutions) -> Solutions:
            return correct(model, plan, found, samples, progress=progress)

        def bodies(found: Solutions) -> Solutions:
            if inside > _FEW_INSIDE:
                return main_graph(correct_fast(model, plan, found, samples, bodies_only=True))
            # What bodies read is right by now; what reads them was corrected for what they had lost.
            return main_graph(correct_bodies(model, plan, found, samples, progress=progress))

        every = main + inside
        measured = [(main_graph, main, main), (bodies, inside, every)]
        steps = [(fast, every, every)] if self.job.correction is Correction.FAST else measured
        solutions = draft.solutions
        for step, layers, total in steps:
            if layers:
                with self.clock.stage("correct"):
                    solutions = step(solutions)
                yield solutions, total

    def _rescued(self, draft: Draft) -> Draft:
        """The draft with its most sensitive nodes back in float, where an output collapses or is near to it.

        The first 1, 2, 4 … nodes of the ranking go back: until no output collapses, and then as long as a few more
        gain much. Biases are corrected once, at the end.
        """
        least = self.job.min_sqnr_db
        near = _NEAR_DB if model_bytes(self.prepared.model) < _SMALL_BYTES else 0.0
        if draft.worst_db >= least + near or not draft.plan.nodes:
            return draft
        best = self._compared(self._drafted(draft.method, draft.floats))
        ranking, count = self._most_sensitive(best), 1
        while count < 2 * len(ranking):
            trial = self._compared(self._drafted(draft.method, draft.floats | dict(ranking[:count])))
            gain = trial.worst_db - best.worst_db
            if gain > (0 if best.worst_db < least else _GAIN_DB):
                best = replace(trial, guard=_actions(ranking[:count], draft.worst_db, trial.worst_db))
            if best.worst_db >= least and (gain <= _GAIN_DB or count >= _FEW_NODES):
                break
            count *= 2
        rescued = self._corrected(best)
        return replace(rescued, guard=(*draft.guard, *best.guard)) if rescued.worst_db > draft.worst_db else draft

    def _most_sensitive(self, draft: Draft) -> list[tuple[str, str]]:
        """The planned operators with the reason to leave them float, the most sensitive first."""
        with self.clock.stage("rank"):
            found = sensitivities(
                self.prepared.model,
                draft.plan,
                draft.solutions,
                self.samples.held_back[:_BLAME_SAMPLES],
                providers=self.job.providers,
                progress=self.job.progress,
            )
        return [(node, f"quantized alone it leaves {db:.1f} dB of the output") for node, db in found.items()]


def _actions(nodes: Iterable[tuple[str, str]], before_db: float, after_db: float) -> tuple[GuardAction, ...]:
    return tuple(
        GuardAction(subject=node, action="kept float", reason=why, before_db=before_db, after_db=after_db)
        for node, why in nodes
    )
