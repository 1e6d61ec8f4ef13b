"""Solve every weight of a plan: those that need no data one after the other, the others as the model is walked."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir

from vqonnx.algorithms.auto import data_free
from vqonnx.algorithms.base import Needs, find_algorithm
from vqonnx.calibration.feeds import Array
from vqonnx.calibration.moments import InputMoments
from vqonnx.calibration.samples import Samples
from vqonnx.core.blocks import CodebookBlocks, FloatArray
from vqonnx.core.solved_weight import SolvedWeight
from vqonnx.core.weight_plan import Reader, WeightOnlyPlan, WeightPlan
from vqonnx.graph.facts import int_attribute
from vqonnx.kernels.blocks.codebook import dequantize_from_book
from vqonnx.kernels.blocks.packing import dequantize_blocks
from vqonnx.planning.weights.layers import Layer
from vqonnx.progress import Progress, silent
from vqonnx.stages.weights.channel_scales import fold_before
from vqonnx.stages.weights.inputs import WalkOptions, walk_layer_inputs
from vqonnx.stages.weights.solve import solve_group, solve_weight
from vqonnx.stages.weights.steps import LayerInput, unwalkable
from vqonnx.stages.weights.store import SolvedWeights

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SolveOptions:
    """How weights are solved.

    Attributes:
        algorithm: The algorithm that ``options`` are meant for; others have their defaults.
        options: Its options, by name.
        inputs: Whether layers learn from the inputs that packed layers before them make, or the float model's.
        providers: Execution providers of the sessions that run the float model.
        work: Folder that belongs to this job alone, which lets an interrupted walk go on.
        progress: Told how far it is.
    """

    algorithm: str
    options: Mapping[str, object] = field(default_factory=dict)
    inputs: Literal["quantized", "float"] = "quantized"
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    work: Path | None = None
    progress: Progress = silent

    def options_of(self, plan: WeightPlan) -> Mapping[str, object] | None:
        """The options for one weight."""
        return self.options if plan.algorithm == self.algorithm else None


def solve_layers(
    model: ir.Model,
    plan: WeightOnlyPlan,
    layers: Mapping[str, Layer],
    solved: SolvedWeights,
    samples: Samples | None,
    options: SolveOptions,
) -> list[str]:
    """Solve every weight of ``plan`` that is not in ``solved`` yet, and put it there.

    Args:
        model: The prepared float model; not changed.
        plan: Which weights, and how.
        layers: The nodes of the plan, by name.
        solved: What an earlier run has solved, and where to put the rest.
        samples: Calibration samples; without any, only the weights themselves count.
        options: How.

    Returns:
        Remarks on weights for which the samples could not be used.

    Raises:
        VqonnxError: As ``solve_group`` and ``walk_layer_inputs``.
    """
    walked, blind = _walked(model, plan, layers) if samples is not None else ({}, {})
    unwalked = [weight for weight in plan.weights.values() if weight.key not in walked]
    _solve_without_samples(unwalked, layers, solved, options, blind)
    if walked and samples is not None:
        solving = _Solving(model, plan, layers, solved, options, walked)
        walk = WalkOptions(
            inputs=options.inputs, providers=options.providers, work=options.work, progress=options.progress
        )
        walk_layer_inputs(model, solving.layer_inputs(), samples, solving, walk)
    return [_told(blind)] if blind else []


def _solve_without_samples(
    weights: Sequence[WeightPlan],
    layers: Mapping[str, Layer],
    solved: SolvedWeights,
    options: SolveOptions,
    blind: Mapping[str, str],
) -> None:
    total = sum(weight.in_features * weight.out_features for weight in weights)
    done = 0
    for weight in weights:
        if weight.key not in solved:
            layer = layers[weight.readers[0]]
            solved.put(_solved_without_samples(weight, layer.read(), options, blind.get(weight.key)))
            layer.weight.release()
        done += weight.in_features * weight.out_features
        options.progress("solve, million weights", done // _MILLION, total // _MILLION)


def _solved_without_samples(
    plan: WeightPlan, weight: FloatArray, options: SolveOptions, reason: str | None
) -> SolvedWeight:
    """One weight by its own algorithm, or by what does without data where its inputs cannot be observed."""
    if reason is None:
        return solve_weight(plan, weight, None, options.options_of(plan))
    needs_data = find_algorithm(plan.algorithm).needs is Needs.HESSIAN
    able = replace(plan, algorithm=data_free(plan.spec)) if needs_data else plan
    found = solve_weight(able, weight, None, options.options_of(able))
    return replace(found, asked=plan.algorithm, note=f"solved without samples: {reason}")


def _told(blind: Mapping[str, str]) -> str:
    key, reason = next(iter(blind.items()))
    more = f"; so were {len(blind) - 1} more" if len(blind) > 1 else ""
    return f"weight {key!r} was packed without samples, since {reason}{more}"


Ends = tuple[str, int]
"""An activation and the axis of its features."""


def _walked(
    model: ir.Model, plan: WeightOnlyPlan, layers: Mapping[str, Layer]
) -> tuple[dict[str, tuple[Ends, ...]], dict[str, str]]:
    """For each weight that learns from samples the inputs to learn from, in graph order; and why others do not."""
    learning = [
        weight for weight in plan.weights.values() if find_algorithm(weight.algorithm).needs is not Needs.NOTHING
    ]
    reasons = unwalkable(model, dict.fromkeys(name for weight in learning for name in weight.inputs))
    position = {value.name: at for at, node in enumerate(model.graph) for value in node.outputs}
    walked: dict[str, tuple[Ends, ...]] = {}
    blind: dict[str, str] = {}
    for weight in learning:
        ends = {_ends(layers[name]) for name in weight.readers if layers[name].reader is Reader.PRODUCT}
        usable = sorted((end for end in ends if end[0] not in reasons), key=lambda end: (position.get(end[0], -1), end))
        if usable:
            walked[weight.key] = tuple(usable)
        elif ends:
            name = weight.inputs[0]
            blind[weight.key] = f"its input {name!r} cannot be observed ({reasons[name]})"
    return walked, blind


def _ends(layer: Layer) -> Ends:
    assert layer.input is not None
    if layer.node.op_type == "Conv":
        return layer.input.name or "", 1
    return layer.input.name or "", 0 if int_attribute(layer.node, "transA", 0) else -1


@dataclass(eq=False)
class _Solving:
    """What the walk calls: turns the moments of inputs into packed weights."""

    model: ir.Model
    plan: WeightOnlyPlan
    layers: Mapping[str, Layer]
    solved: SolvedWeights
    options: SolveOptions
    walked: Mapping[str, tuple[Ends, ...]]

    def __post_init__(self) -> None:
        self._sums: dict[str, InputMoments] = {}
        self._learners: dict[Ends, list[WeightPlan]] = {}
        for key, ends in self.walked.items():
            for end in ends:
                self._learners.setdefault(end, []).append(self.plan.weights[key])

    def layer_inputs(self) -> list[LayerInput]:
        """The inputs to walk; a weight with several is settled by the last."""
        return [
            LayerInput(
                value=end[0],
                axis=end[1],
                features=learners[0].in_features,
                nodes=tuple(name for weight in self._settled(end) for name in weight.readers),
            )
            for end, learners in self._learners.items()
        ]

    def finished(self, layer_input: LayerInput) -> bool:
        """Whether every weight that learns from this input is solved."""
        return all(weight.key in self.solved for weight in self._learners[_end(layer_input)])

    def solve(self, layer_input: LayerInput, moments: InputMoments) -> None:
        """Solve the weights for which no further input is to come."""
        end = _end(layer_input)
        together: dict[str, list[WeightPlan]] = {}
        for weight in self._learners[end]:
            if len(self.walked[weight.key]) == 1:
                together.setdefault(weight.algorithm, []).append(weight)
            else:
                self._sums[weight.key] = _added(self._sums.get(weight.key), moments)
        for weights in together.values():
            foldable = end[1] == -1 and fold_before(weights, self.plan, self.layers) is not None
            self._solve_together(weights, moments, scalable=foldable)
        for weight in self._settled(end):
            if weight.key in self._sums:
                self._solve_together([weight], self._sums.pop(weight.key), scalable=False)

    def constants(self, nodes: Collection[str]) -> Mapping[tuple[str, int], Array]:
        """The float constants that the packed weights of some nodes stand for."""
        found: dict[tuple[str, int], Array] = {}
        for name in nodes:
            planned = self.plan.layers.get(name)
            solved = None if planned is None else self.solved.get(planned.weight)
            if solved is not None:
                layer = self.layers[name]
                found[name, layer.weight_index] = layer.in_layout(effective_weight(solved))
        return found

    def _settled(self, end: Ends) -> list[WeightPlan]:
        """The weights that learn from no later input."""
        return [weight for weight in self._learners[end] if self.walked[weight.key][-1] == end]

    def _solve_together(self, weights: Sequence[WeightPlan], moments: InputMoments, *, scalable: bool) -> None:
        if all(weight.key in self.solved for weight in weights):
            return  # by an earlier run, which was interrupted before others that learn from this input
        layers = [self.layers[weight.readers[0]] for weight in weights]
        arrays = [layer.read() for layer in layers]
        options = self.options.options_of(weights[0])
        for one in list(solve_group(weights, arrays, moments, options, scalable=scalable)):
            self.solved.put(one)
        del arrays
        for layer in layers:
            layer.weight.release()


def _end(layer_input: LayerInput) -> Ends:
    return layer_input.value, layer_input.axis


def _added(known: InputMoments | None, more: InputMoments) -> InputMoments:
    if known is None:
        return more
    held_back = None
    if known.held_back is not None and more.held_back is not None:
        held_back = known.held_back + more.held_back
    return replace(
        known,
        calibration=known.calibration + more.calibration,
        rows=known.rows + more.rows,
        held_back=held_back,
        held_back_rows=known.held_back_rows + more.held_back_rows,
    )


def effective_weight(solved: SolvedWeight) -> FloatArray:
    """The float weight [K, N] that a packed one stands for, channel scales undone."""
    packed = solved.packed
    weight = dequantize_from_book(packed) if isinstance(packed, CodebookBlocks) else dequantize_blocks(packed)
    if solved.channel_scales is None:
        return weight
    divided: FloatArray = weight.astype(np.float32) / solved.channel_scales[:, np.newaxis]
    return divided
