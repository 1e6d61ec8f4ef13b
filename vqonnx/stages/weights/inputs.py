"""Run a float model piece by piece over samples, and hand the inputs of its layers, as second moments, to a solver.

Only the moments of the current piece and a few samples' tensors are in memory at a time; what crosses from one piece
to the next lies on disk. So later layers can be solved on the inputs that the already quantized layers before them
make, as GPTQ is meant to be used (Frantar et al. 2022, arXiv:2210.17323, section 4).
"""

import hashlib
import tempfile
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import onnx_ir as ir

from vqonnx.calibration.activation_store import ActivationStore
from vqonnx.calibration.feeds import Array
from vqonnx.calibration.moments import F32, InputMoments, MomentSums, SampleSplit, finite_rows
from vqonnx.calibration.samples import Samples
from vqonnx.errors import OptionError, SampleError
from vqonnx.graph.segments import read_later
from vqonnx.kernels.parallel import processors
from vqonnx.progress import Progress, silent
from vqonnx.stages.weights.segment_run import CPU, Constants, Outputs, SegmentRunner
from vqonnx.stages.weights.steps import Budget, LayerInput, Step, planned_steps, unwalkable

_FOLDER = "activations"


class LayerSolver(Protocol):
    """What turns moments into weights, and knows those it has made."""

    def finished(self, layer_input: LayerInput) -> bool:
        """Whether an earlier, interrupted run settled the weights of ``layer_input.nodes``; asked at the beginning."""

    def solve(self, layer_input: LayerInput, moments: InputMoments) -> None:
        """Settle the weights of ``layer_input.nodes``; called in graph order, once for each input not finished."""

    def constants(self, nodes: Collection[str]) -> Constants:
        """What ``nodes`` read from now on instead of their float weights.

        Each array has the shape and type of what it replaces, and may be a map of a file. Asked when the nodes are
        about to run; ``nodes`` are all of them but those whose weights an input still to come will settle.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkOptions:
    """How the model is walked.

    Attributes:
        inputs: Whether layers see the inputs that the quantized layers before them make, or the float model's.
        held_back: Whether moments of held-back samples are wanted too.
        nonfinite: Whether NaN and infinity in a layer's input are an error, or such rows are left out.
        providers: ONNX Runtime's execution providers, best first.
        workers: Samples that run at a time, by default one a core; the result does not depend on it.
        memory_budget: Bytes of weights, moments and activations up to which several layers' inputs are measured in
            one run; that takes inputs="float". (121 inputs of SmolLM2-135M: in one run 18 s and 2.9 GiB, in 4 runs
            16 s and 1.1 GiB, in a run each 27 s and 0.4 GiB.)
        work: Folder of this job alone for activations, which lets a run that was interrupted go on; None: a temporary
            folder.
        save_every: Seconds between two notes in ``work`` of how far the walk is.
        progress: Told of each layer input that is done.
    """

    inputs: Literal["quantized", "float"] = "quantized"
    held_back: bool = True
    nonfinite: Literal["error", "ignore"] = "error"
    providers: tuple[str, ...] = CPU
    workers: int | None = None
    memory_budget: int = 1 << 30
    work: Path | None = None
    save_every: float = 20.0
    progress: Progress = silent


def walk_layer_inputs(
    model: ir.Model,
    inputs: Sequence[LayerInput],
    samples: Samples,
    solver: LayerSolver,
    options: WalkOptions | None = None,
) -> None:
    """Measure ``inputs`` in graph order and let ``solver`` solve the layers behind each before the next one.

    Args:
        model: Its names are unique; it is not changed, and mapped weights are read piece by piece.
        inputs: What layers read.
        samples: Those that calibrate, and those held back.
        solver: Makes weights of moments.
        options: How.

    Raises:
        OptionError: An input cannot be walked (see ``unwalkable``), or a constant does not fit its node.
        SampleError: There are no samples, one does not fit the model, or an input holds NaN or infinity.
        UnsupportedModelError: ONNX Runtime cannot run a part of the model, or hand out what it makes.
        OutputError: The disk is full.
    """
    options = options or WalkOptions()
    _refuse(model, inputs, samples)
    split = SampleSplit.of(samples, held_back=options.held_back)
    runs = options.workers or (processors() if options.providers == CPU else 1)
    budget = Budget(nbytes=options.memory_budget, sums=split.sums, runs=2 * runs + 1)
    steps = planned_steps(model, inputs, samples.all[0], budget if options.inputs == "float" else None)
    finished = frozenset(one for one in inputs if solver.finished(one))
    if finished.issuperset(inputs):
        return
    with ExitStack() as stack:
        store = stack.enter_context(_store(options, _key(steps, split, options), stack))
        pool = stack.enter_context(ThreadPoolExecutor(runs))
        runner = SegmentRunner(model, samples, split.numbers, store, pool, runs, options.providers)
        _Walk(tuple(steps), finished, split, runner, solver, options).go()
        store.remove()


def _refuse(model: ir.Model, inputs: Sequence[LayerInput], samples: Samples) -> None:
    if not len(samples):
        raise SampleError("there is no calibration sample to run the model on; pass at least one")
    for name, reason in unwalkable(model, [one.value for one in inputs]).items():
        raise OptionError(f"the layer input {name!r} cannot be measured: {reason}. Leave it out", option="inputs")


def _store(options: WalkOptions, key: str, stack: ExitStack) -> ActivationStore:
    if options.work is not None:
        return ActivationStore(options.work / _FOLDER, save_every=options.save_every, key=key)
    temporary = tempfile.TemporaryDirectory(prefix="vqonnx-", ignore_cleanup_errors=True)
    return ActivationStore(Path(stack.enter_context(temporary)))


def _key(steps: Sequence[Step], split: SampleSplit, options: WalkOptions) -> str:
    """What decides which activations are stored; the model, the samples and the solver belong to the folder."""
    digest = hashlib.blake2b(repr((options.inputs, options.providers, split.numbers)).encode(), digest_size=20)
    for step in steps:
        values = (step.segment.inputs, step.segment.outputs)
        digest.update(repr([[value.name for value in part] for part in values]).encode())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class _Walk:
    """A walk over the steps; what it knows is in the runner's store and in the solver."""

    steps: tuple[Step, ...]
    finished: frozenset[LayerInput]
    split: SampleSplit
    runner: SegmentRunner
    solver: LayerSolver
    options: WalkOptions

    def go(self) -> None:
        """Take the steps that are left, up to the last one with an input that is not finished."""
        open_steps = [number for number, step in enumerate(self.steps) if not self.finished.issuperset(step.inputs)]
        last, store = open_steps[-1], self.runner.store
        later = read_later([step.segment for step in self.steps[: last + 1]])
        crossing = [{value.name or "" for value in values if not value.is_graph_input()} for values in later]
        if store.done and not (store.done <= open_steps[0] and store.holds(crossing[store.done - 1])):
            store.forget()  # weights that had been settled are lost, so that earlier steps must run again
        total = sum(len(step.inputs) for step in self.steps)
        for number in range(store.done, last + 1):
            self._take(number, crossing[number])
            store.commit(number + 1, crossing[number])
            self.options.progress("layer inputs", sum(len(step.inputs) for step in self.steps[: number + 1]), total)

    def _take(self, number: int, crossing: Collection[str]) -> None:
        """Run one step and let its inputs be solved."""
        step = self.steps[number]
        wanted = [one for one in step.inputs if one not in self.finished]
        kept = [value.name or "" for value in step.segment.outputs if value.name in crossing]
        if not wanted and not kept:
            return
        sums = self._run(number, kept, wanted)
        for one in wanted:
            self.solver.solve(one, sums.pop(one).result(one.value))

    def _run(self, number: int, kept: Sequence[str], wanted: Sequence[LayerInput]) -> dict[LayerInput, MomentSums]:
        """Run all samples through a segment: store what is ``kept``, sum up what is ``wanted``."""
        segment = self.steps[number].segment
        sums = {one: MomentSums(one.features, self.split) for one in wanted}

        def look(sample: int, found: Outputs) -> list[F32]:
            append(sample, [found[name] for name in kept])
            return [self._rows(one, sample, found[one.value]) for one in wanted]

        with (
            self.runner.store.writing(kept) as append,
            closing(self.runner.run(segment, self._constants(number), look)) as results,
        ):
            for sample, parts in results:
                for one, rows in zip(wanted, parts, strict=True):
                    sums[one].add(sample, rows)
        return sums

    def _constants(self, number: int) -> Constants:
        """What the solver has for the nodes of a step.

        Weights that it knows from an interrupted run, but would not know at this place of an uninterrupted one, are
        not asked for, so that both compute the same.
        """
        if self.options.inputs == "float":
            return {}
        pending = {node for step in self.steps[number:] for one in step.inputs for node in one.nodes}
        return self.solver.constants(self.steps[number].segment.node_names - pending)

    def _rows(self, one: LayerInput, sample: int, array: Array) -> F32:
        nonfinite = self.options.nonfinite
        return finite_rows(array, one.features, one.axis, tensor=one.value, sample=sample, nonfinite=nonfinite)
