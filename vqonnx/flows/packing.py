"""Packing the weights of one model in memory: the plan, the solved weights, the model that holds them."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import onnx_ir as ir

from vqonnx.algorithms.base import Needs, find_algorithm
from vqonnx.algorithms.options import options_for
from vqonnx.calibration.samples import Samples
from vqonnx.core.blocks import PER_CHANNEL, BlockSpec, PackedWeight
from vqonnx.core.solved_weight import SolvedWeight
from vqonnx.core.weight_plan import WeightForm, WeightOnlyPlan, WeightPlan
from vqonnx.emitters.weights.emit import emit_weights
from vqonnx.errors import OptionError, UnsupportedModelError
from vqonnx.flows.kept import AlreadyQuantized
from vqonnx.graph.identity import model_identity
from vqonnx.graph.walk import nodes, values
from vqonnx.planning.weights.layers import Layer, find_layers
from vqonnx.planning.weights.plan import plan_weights
from vqonnx.planning.weights.rules import WeightRules
from vqonnx.progress import Progress, silent
from vqonnx.report.figures import Level
from vqonnx.report.weights import WeightFigures, decibels_of
from vqonnx.stages.emit import TARGET_KEY
from vqonnx.stages.weights.channel_scales import fold_channel_scales
from vqonnx.stages.weights.layers import SolveOptions, solve_layers
from vqonnx.stages.weights.prepare import prepare_weights
from vqonnx.stages.weights.store import SolvedWeights
from vqonnx.stages.weights.verify import LayerEnds
from vqonnx.transforms.opset import upgrade_opset
from vqonnx.version import __version__

_BLOCKS, _FLOAT16_SCALES, _AXES = 21, 19, 13
"""Opsets with which DequantizeLinear learned this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightOnlyJob:
    """What ``quantize_weight_only`` was asked for, besides model, output and samples.

    Attributes:
        rules: What shapes the plan.
        options: Options of the algorithms.
        inputs: Whether layers learn from the inputs that packed layers before them make, or the float model's.
        requantize: Whether weights behind a DequantizeLinear are packed anew.
        level: How far the result is verified.
        providers: Execution providers of all sessions.
        external: Write tensors into a data file; None: where the float model has one, or the result is large.
        min_sqnr_db: An output below this is warned about.
        already_quantized: What becomes of a model that has quantized parts.
        progress: Told how far each stage is.
    """

    rules: WeightRules
    options: Mapping[str, object] = field(default_factory=dict)
    inputs: Literal["quantized", "float"] = "quantized"
    requantize: bool = False
    level: Level = Level.COMPARED
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    external: bool | None = None
    min_sqnr_db: float = 10.0
    already_quantized: AlreadyQuantized = "keep"
    progress: Progress = silent


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """What a model holds when it is packed.

    Attributes:
        solved: The solved weights.
        changed: Those that were written instead, whose output channels took channel scales of the layer behind.
        ends: Where each layer begins and ends, by node name.
    """

    solved: SolvedWeights
    changed: Mapping[str, SolvedWeight]
    ends: Mapping[str, LayerEnds]

    def packed(self, key: str) -> PackedWeight:
        """The packed weight of a key, as it was written."""
        return (self.changed.get(key) or self.solved[key]).packed


@dataclass(frozen=True, slots=True, eq=False)
class Packing:
    """A private model on its way from float to packed.

    Attributes:
        model: The prepared model; ``emit`` packs its weights.
        job: What was asked for.
        layers: The nodes of the plan, by name, as they are in the float model.
        plan: Which weights become what.
        notes: Remarks for the report; stages add theirs.
    """

    model: ir.Model
    job: WeightOnlyJob
    layers: Mapping[str, Layer]
    plan: WeightOnlyPlan
    notes: list[str]

    @classmethod
    def of(cls, model: ir.Model, job: WeightOnlyJob) -> "Packing":
        """Plan what becomes of a model, which is prepared in place.

        Raises:
            OptionError: A name matches nothing, or an option makes no sense for a layer.
            UnsupportedModelError: There is nothing to pack, or the form cannot be written in this model.
        """
        options_for(find_algorithm(job.rules.algorithm), job.options)
        prepared = prepare_weights(model)
        upgrade_opset(model, _needed_opset(model, job.rules.form))
        known = {*prepared.folded, *(node.name or "" for node in nodes(model))}
        layers, skips = find_layers(model, requantize=job.requantize)
        plan = plan_weights(layers, skips, job.rules, known)
        _refuse_unrunnable(plan, job)
        planned = {layer.name: layer for layer in layers if layer.name in plan.layers}
        return cls(model, job, planned, plan, [*prepared.notes, *plan.notes])

    def solve(self, solved: SolvedWeights, samples: Samples | None, work: Path | None = None) -> None:
        """Solve the weights that ``solved`` does not have yet.

        Raises:
            OptionError: An algorithm needs samples, and there are none.
        """
        if samples is None:
            _refuse_without_samples(self.plan)
        options = SolveOptions(
            algorithm=find_algorithm(self.job.rules.algorithm).name,
            options=self.job.options,
            inputs=self.job.inputs,
            providers=self.job.providers,
            work=work,
            progress=self.job.progress,
        )
        self.notes.extend(solve_layers(self.model, self.plan, self.layers, solved, samples, options))

    def emit(self, solved: SolvedWeights) -> "Written":
        """Put the packed weights into the model."""
        changed, notes = fold_channel_scales(self.model, self.plan, self.layers, solved)
        self.notes.extend(notes)
        written = Written(solved, changed, {name: LayerEnds.of(layer) for name, layer in self.layers.items()})
        emit_weights(self.model, self.plan, self.layers, written.packed)
        self.model.metadata_props[TARGET_KEY] = f"weights: {self.job.rules.form.value}"
        return written

    def digest(self, samples: Samples | None) -> str:
        """What tells this job from any other: model, plan, options, samples, and the version that does it."""
        parts = (
            __version__,
            model_identity(self.model),
            repr(self.plan),
            repr((sorted(self.job.options.items()), self.job.inputs)),
            "" if samples is None else samples.digest(),
        )
        return hashlib.blake2b(repr(parts).encode(), digest_size=20).hexdigest()

    def figures(self, solved: SolvedWeights, node_db: Mapping[str, float]) -> tuple[WeightFigures, ...]:
        """What became of each weight; ``node_db`` tells what the written nodes showed."""
        return tuple(_figures(plan, solved[plan.key], node_db) for plan in self.plan.weights.values())


def _needed_opset(model: ir.Model, form: WeightForm) -> int:
    """Least opset of the default domain; the contrib operators take any."""
    if form is WeightForm.QDQ:
        return _BLOCKS
    if form is not WeightForm.CHANNEL_QDQ:
        return 1
    half = any(value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16) for value in values(model))
    return _FLOAT16_SCALES if half else _AXES


def _figures(plan: WeightPlan, solved: SolvedWeight, node_db: Mapping[str, float]) -> WeightFigures:
    spec = plan.spec
    known = [node_db[node] for node in plan.readers if node in node_db]
    return WeightFigures(
        weight=plan.key,
        nodes=plan.readers,
        form=plan.form.value,
        bits=spec.bits if isinstance(spec, BlockSpec) else 4,
        block_size=PER_CHANNEL if plan.form is WeightForm.CHANNEL_QDQ else spec.block_size,
        symmetric=isinstance(spec, BlockSpec) and spec.symmetric,
        asked=solved.asked,
        algorithm=solved.algorithm,
        data=solved.data,
        sqnr_db=decibels_of(solved.error),
        rtn_db=decibels_of(solved.rtn_error),
        node_db=min(known, default=None),
        note=solved.note,
    )


def _refuse_without_samples(plan: WeightOnlyPlan) -> None:
    for weight in plan.weights.values():
        if weight.inputs and find_algorithm(weight.algorithm).needs is Needs.HESSIAN:
            raise OptionError(
                f"algorithm {weight.algorithm!r} learns from samples, and there are none. Pass calibration=, or take "
                "'scale_search', which does without.",
                option="calibration",
            )


def _refuse_unrunnable(plan: WeightOnlyPlan, job: WeightOnlyJob) -> None:
    half = next((weight for weight in plan.weights.values() if weight.dtype == "bfloat16"), None)
    if half is not None and job.level is not Level.CHECKED and job.providers == ("CPUExecutionProvider",):
        raise UnsupportedModelError(
            f"weight {half.key!r} is bfloat16, for which ONNX Runtime's CPU has no product, so the result cannot be "
            "run here. Pass verify='checker' to write it unrun, or a provider that has one."
        )
