"""Solve: one float weight after the other becomes packed, and is never worse than rounded to nearest.

Whatever an algorithm found is compared with round-to-nearest, by the output error on the held-back samples (on those of
calibration where none are held back), or without data by the squared error of the weight; the better one is kept, and
the result says which. HQQ lowers another norm than the squared error, so without data its result is kept as asked.

Layers that read the same activation are solved together: GPTQ factors their Hessian once, AWQ divides the activation
by one set of channel scales for all. If those make a single layer worse, none of them gets any.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

from vqonnx.algorithms.auto import data_free
from vqonnx.algorithms.base import Algorithm, LayerProblem, LayerSolution, Needs, find_algorithm
from vqonnx.algorithms.options import options_for
from vqonnx.algorithms.slabs import slabs
from vqonnx.calibration.moments import InputMoments
from vqonnx.core.blocks import CodebookBlocks, FloatArray
from vqonnx.core.solved_weight import SolvedWeight
from vqonnx.core.weight_plan import WeightPlan
from vqonnx.errors import OptionError, QuantRangeError
from vqonnx.kernels.blocks.errors import F64, Candidate, SecondMoment, output_errors, output_norms, weight_errors

Options = Mapping[str, object] | object | None
"""What users give an algorithm, see ``options_for``."""


def solve_weight(
    plan: WeightPlan, weight: FloatArray, moments: InputMoments | None = None, options: Options = None
) -> SolvedWeight:
    """Solve one weight; arguments and errors as for ``solve_group``."""
    (solved,) = solve_group([plan], [weight], moments, options)
    return solved


def solve_group(
    plans: Sequence[WeightPlan],
    weights: Sequence[FloatArray],
    moments: InputMoments | None = None,
    options: Options = None,
    *,
    scalable: bool = False,
) -> Iterator[SolvedWeight]:
    """Solve weights that are multiplied with the same activation, in the given order.

    Args:
        plans: What is planned for them; all ask for the same algorithm.
        weights: W [K, N] of each, float32, float16 or bfloat16; maps of files are read a slab of columns at a time.
        moments: Of the activation, or the sum over activations where one weight reads several; None without data.
        options: The algorithm's options, or some of them by name.
        scalable: Whether the activation may be divided by channel scales.

    Raises:
        OptionError: The plans ask for different algorithms, an option is unknown or out of range, or the algorithm
            refuses a spec or needs data.
        QuantRangeError: A weight holds NaN or infinity; it names the weight and its first reader.
    """
    names = {plan.algorithm for plan in plans}
    if len(names) > 1:
        raise OptionError(f"weights solved together must share an algorithm, got {sorted(names)}", option="algorithm")
    for name in names:
        algorithm = find_algorithm(name)
        _refuse(algorithm, plans, moments)
        run, known = _Run(algorithm, options_for(algorithm, options)), _Inputs.of(moments)
        tasks = [_Task.of(plan, weight, known) for plan, weight in zip(plans, weights, strict=True)]
        yield from _solved_together(run, tasks, scalable and all(task.scalable for task in tasks))


def scale_outputs(solved: SolvedWeight, factors: F64) -> SolvedWeight | None:
    """The weight with each output channel multiplied by a factor: its scales change, its codes do not.

    So channel scales of the layer behind can be undone by this one (``transforms.fold_scales``). Quantizing the
    multiplied weight would give the same, since channels share no block.

    Args:
        solved: In blocks, not of a code book.
        factors: [N], > 0.

    Returns:
        None where a scale would be 0 or infinite in its type, or its blocks are those of a code book.
    """
    packed = solved.packed
    if isinstance(packed, CodebookBlocks):
        return None
    with np.errstate(over="ignore"):
        scales = (packed.scales.astype(np.float64) * factors[:, np.newaxis]).astype(packed.scales.dtype)
    if not (np.isfinite(scales).all() and scales.astype(bool).all()):
        return None
    return replace(solved, packed=replace(packed, scales=scales))


def _refuse(algorithm: Algorithm[Any], plans: Sequence[WeightPlan], moments: InputMoments | None) -> None:
    for plan in plans:
        refused = algorithm.refusal(plan.spec)
        if refused is not None:
            raise OptionError(f"weight {plan.key!r}: {refused}", option="algorithm")
        if algorithm.needs is Needs.HESSIAN and plan.inputs and moments is None:
            raise OptionError(
                f"algorithm {algorithm.name!r} needs calibration data for weight {plan.key!r}; pass calibration=, or "
                "use 'auto', which does without",
                option="calibration",
            )


@dataclass(frozen=True, slots=True)
class _Run:
    """An algorithm and its options."""

    algorithm: Algorithm[Any]
    options: object


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """What samples tell of the inputs of weights.

    Attributes:
        calibration: Second moment over the calibration samples.
        judge: Over the held-back samples; the same one where none are held back.
    """

    calibration: SecondMoment
    judge: SecondMoment

    @classmethod
    def of(cls, moments: InputMoments | None) -> "_Inputs | None":
        """None where there are no samples, or none reached the activation."""
        if moments is None or not moments.calibration.any():
            return None
        calibration, held_back = SecondMoment(moments.calibration), moments.held_back
        if held_back is None or held_back is moments.calibration or not held_back.any():
            return cls(calibration, calibration)
        return cls(calibration, SecondMoment(held_back))

    def beside_lookups(self, weight: FloatArray) -> "_Inputs":
        """With the rows of the identity as inputs too, since lookups return columns of the weight as they are.

        Each kind of reader has the same share: tr(E^T H E) / tr(W^T H W) + |E|^2 / |W|^2.
        """
        squares = sum(
            float(np.square(weight[:, left:right].astype(np.float32)).sum(dtype=np.float64))
            for left, right in slabs(*weight.shape)
        )
        if not np.isfinite(squares):
            raise QuantRangeError("the weight holds NaN or infinite values, for which no scale exists")

        def joined(moment: SecondMoment) -> SecondMoment:
            output = float(output_norms(weight, [moment])[0])
            return SecondMoment(moment.matrix / (output or 1.0) + np.eye(len(moment.matrix)) / (squares or 1.0))

        calibration = joined(self.calibration)
        return _Inputs(calibration, calibration if self.judge is self.calibration else joined(self.judge))


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """One weight to be solved.

    Attributes:
        plan: Its plan.
        weight: W [K, N].
        inputs: What is known of its inputs; None without data.
    """

    plan: WeightPlan
    weight: FloatArray
    inputs: _Inputs | None

    @classmethod
    def of(cls, plan: WeightPlan, weight: FloatArray, inputs: _Inputs | None) -> "_Task":
        if inputs is None or not plan.inputs:
            return cls(plan, weight, None)
        if not plan.looked_up:
            return cls(plan, weight, inputs)
        with _naming_the_broken([cls(plan, weight, None)]):
            return cls(plan, weight, inputs.beside_lookups(weight))

    @property
    def scalable(self) -> bool:
        """Whether dividing the one activation is all that channel scales take."""
        return self.inputs is not None and len(self.plan.inputs) == 1 and not self.plan.looked_up

    @property
    def lack(self) -> str:
        """Why nothing is known of the inputs."""
        return "no calibration sample reached its inputs" if self.plan.inputs else "its columns are only looked up"

    def problem(self, *, scalable: bool) -> LayerProblem:
        """What the algorithm is asked."""
        hessian = None if self.inputs is None else self.inputs.calibration
        return LayerProblem(weight=self.weight, spec=self.plan.spec, hessian=hessian, scalable=scalable)


def _solved_together(run: _Run, tasks: Sequence[_Task], scalable: bool) -> Iterator[SolvedWeight]:
    """With channel scales where they are allowed and make no weight worse than round-to-nearest."""
    if not scalable:
        yield from _solved(run, tasks)
        return
    together = list(_solved(run, tasks, scalable=True))
    worse = [solved.key for solved in together if solved.channel_scales is not None and solved.error > solved.rtn_error]
    if not worse:
        yield from together
        return
    note = f"channel scales make {worse[0]!r} worse than round to nearest, so none are used"
    for before, solved in zip(together, _solved(run, tasks), strict=True):
        yield replace(solved, seconds=before.seconds + solved.seconds, note=_joined(solved.note, note))


def _solved(run: _Run, tasks: Sequence[_Task], *, scalable: bool = False) -> Iterator[SolvedWeight]:
    """Those that the algorithm can serve by it, the others by what does without data, in the given order."""
    blind = [run.algorithm.needs is Needs.HESSIAN and task.inputs is None for task in tasks]
    served = [task.problem(scalable=scalable) for task, lacking in zip(tasks, blind, strict=True) if not lacking]
    solutions = run.algorithm.solve(served, run.options)
    for task, lacking in zip(tasks, blind, strict=True):
        start = perf_counter()
        with _naming_the_broken(tasks):
            solution = _stand_in(task) if lacking else next(solutions)
            solved = _judged(run, task, solution)
        yield replace(solved, seconds=perf_counter() - start)


def _stand_in(task: _Task) -> LayerSolution:
    """Instead of an algorithm that needs data, where there are none."""
    name = data_free(task.plan.spec)
    note = f"{task.lack}, so {name} stands in for {task.plan.algorithm}"
    return replace(_by_default(name, task), algorithm=name, note=note)


def _by_default(name: str, task: _Task) -> LayerSolution:
    algorithm = find_algorithm(name)
    (solution,) = algorithm.solve([task.problem(scalable=False)], algorithm.options())
    return solution


def _judged(run: _Run, task: _Task, solution: LayerSolution) -> SolvedWeight:
    """The solution, or round-to-nearest where that is better."""
    name = solution.algorithm or run.algorithm.name
    candidates = [Candidate(solution.packed, solution.channel_scales)]
    if name != "rtn":
        candidates.append(Candidate(_by_default("rtn", task).packed))
    errors = _relative_errors(task, candidates)
    judged = task.inputs is not None or find_algorithm(name).least_squares
    kept = int(errors[0] > errors[-1] and judged and solution.channel_scales is None)
    return SolvedWeight(
        key=task.plan.key,
        packed=candidates[kept].packed,
        asked=run.algorithm.name,
        algorithm="rtn" if kept else name,
        data=task.inputs is not None,
        error=float(errors[kept]),
        rtn_error=float(errors[-1]),
        calibration_error=_calibration_error(task, candidates[kept], float(errors[kept])),
        channel_scales=solution.channel_scales,
        note=_joined(solution.note, f"{name} was worse than round to nearest" if kept else ""),
    )


def _relative_errors(task: _Task, candidates: Sequence[Candidate]) -> F64:
    """Of each candidate, [C]: in the output on the judge's samples, or in the weight where there are none."""
    if task.inputs is not None:
        return _relative_output_errors(task.weight, candidates, task.inputs.judge)
    found = np.array([weight_errors(task.weight, candidate.packed) for candidate in candidates])
    relative: F64 = found[:, 1] / (found[0, 0] or 1.0)
    return relative


def _relative_output_errors(weight: FloatArray, candidates: Sequence[Candidate], moment: SecondMoment) -> F64:
    relative: F64 = output_errors(weight, candidates, [moment])[0] / (output_norms(weight, [moment])[0] or 1.0)
    return relative


def _calibration_error(task: _Task, kept: Candidate, judged: float) -> float | None:
    if task.inputs is None or task.inputs.judge is task.inputs.calibration:
        return None if task.inputs is None else judged
    return float(_relative_output_errors(task.weight, [kept], task.inputs.calibration)[0])


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))


@contextmanager
def _naming_the_broken(tasks: Sequence[_Task]) -> Iterator[None]:
    """Say in a QuantRangeError which of the weights it is about: algorithms may look at all of them first."""
    try:
        yield
    except QuantRangeError as error:
        broken = next((task.plan for task in tasks if not _is_finite(task.weight)), tasks[0].plan)
        raise QuantRangeError(
            f"weight {broken.key!r} of node {broken.readers[0]!r}: {error}. Repair it, or exclude the node.",
            tensor=broken.key,
        ) from error


def _is_finite(weight: FloatArray) -> bool:
    columns = slabs(*weight.shape)
    return all(bool(np.isfinite(weight[:, left:right].astype(np.float32)).all()) for left, right in columns)
