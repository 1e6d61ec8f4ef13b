"""Dynamic quantization from file to file: one float weight in memory at a time."""

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from vqonnx.calibration.model import model_inputs
from vqonnx.calibration.readers import Reader, open_samples
from vqonnx.calibration.samples import Samples
from vqonnx.core.dynamic_plan import DynamicForm, DynamicPlan
from vqonnx.emitters.dynamic import emit_dynamic
from vqonnx.flows.clock import Clock
from vqonnx.flows.kept import AlreadyQuantized, Left, keep_file, quantized_parts
from vqonnx.graph.atomic import check_writable
from vqonnx.graph.io import ModelSource, load, save
from vqonnx.graph.proto import initialized_values
from vqonnx.graph.walk import nodes
from vqonnx.planning.dynamic.nodes import DYNAMIC_OPERATORS, find_dynamic_nodes
from vqonnx.planning.dynamic.plan import DynamicRules, Planned, plan_dynamic
from vqonnx.progress import Progress, silent
from vqonnx.report.figures import Level, Verification
from vqonnx.report.model import OptionUsed, Report
from vqonnx.report.weights import WeightFigures
from vqonnx.stages.emit import TARGET_KEY
from vqonnx.stages.round_rows import round_weights
from vqonnx.stages.verify_dynamic import Trial, verify_nodes
from vqonnx.stages.verify_in_memory import has_data_file, verify_in_memory
from vqonnx.stages.weights.prepare import prepare_weights
from vqonnx.transforms.opset import upgrade_opset
from vqonnx.version import __version__

_DYNAMIC, _AXES = 11, 13
"""Opsets with which DynamicQuantizeLinear came and DequantizeLinear learned about axes."""
_INLINE_BYTES = 1 << 28
"""Quantized models up to this size stay one file, unless the float model had a data file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicJob:
    """What ``quantize_dynamic`` was asked for, besides model, output and samples.

    Attributes:
        rules: What shapes the plan.
        level: How far the result is verified.
        providers: Execution providers of the sessions over the whole model.
        external: Write tensors into a data file; None: where the float model has one, or the result is large.
        min_sqnr_db: An output below this is warned about.
        already_quantized: What becomes of a model that has quantized parts.
        progress: Told how far each stage is.
    """

    rules: DynamicRules
    level: Level = Level.COMPARED
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    external: bool | None = None
    min_sqnr_db: float = 10.0
    already_quantized: AlreadyQuantized = "keep"
    progress: Progress = silent


def quantize_file(source: ModelSource, destination: Path, reader: Reader | None, job: DynamicJob) -> Report:
    """Run every stage and write the result; the path holds the old file until the new one has been verified.

    Raises:
        VqonnxError: As ``api.quantize_dynamic``.
    """
    check_writable(destination)
    clock = Clock()
    with clock.stage("load"):
        model = load(source)
    with clock.stage("prepare"):
        was_quantized = bool(quantized_parts(model, job.already_quantized))
        planned, notes = _planned(model, job.rules)
    if was_quantized and not planned.plan.nodes:
        return keep_file(source, destination, reader, Left(planned.plan.target, planned.plan.skips), job)
    with ExitStack() as stack:
        samples = None if reader is None else stack.enter_context(open_samples(reader, model_inputs(model)))
        with clock.stage("solve"):
            rounded, decibels = round_weights(planned.plan, planned.sources, job.progress)
        trials = {
            name: Trial.of(model, node, {i: rounded[planned.plan.nodes[name].weights[i]] for i in node.weights})
            for name, node in planned.nodes.items()
        }
        with clock.stage("emit"):
            emit_dynamic(model, planned.plan, rounded)
            model.metadata_props[TARGET_KEY] = f"dynamic: {planned.plan.target}"
        verification, node_db = _save(_Result(model, trials, samples, source, job), destination, clock)
    return Report(
        version=__version__,
        target=planned.plan.target,
        quantized=Counter(node.op_type for node in planned.plan.nodes.values()),
        skips=planned.plan.skips,
        options=_options(job.rules),
        verification=verification,
        weights=_figures(planned.plan, decibels, node_db),
        seconds=clock.seconds,
        samples=0 if samples is None else len(samples.calibration),
        min_sqnr_db=job.min_sqnr_db,
        notes=notes,
    )


def _planned(model: ir.Model, rules: DynamicRules) -> tuple[Planned, tuple[str, ...]]:
    """Prepare a private model in place, and plan what becomes of it."""
    prepared = prepare_weights(model, DYNAMIC_OPERATORS)
    known = {*prepared.folded, *(node.name or "" for node in nodes(model))}
    planned = _plan(model, rules, known)
    forms = {node.form for node in planned.plan.nodes.values()}
    if not forms:
        return planned, prepared.notes
    if not upgrade_opset(model, _AXES if DynamicForm.DEQUANTIZED in forms else _DYNAMIC):
        return planned, prepared.notes
    return _plan(model, rules, known), prepared.notes  # nodes may be new ones


def _plan(model: ir.Model, rules: DynamicRules, known: set[str]) -> Planned:
    found, skips = find_dynamic_nodes(model, bodies=rules.bodies)
    return plan_dynamic(found, skips, rules, known)


@dataclass(frozen=True, slots=True, eq=False)
class _Result:
    """A quantized model that is to be written and verified.

    Attributes:
        model: The model.
        trials: What its nodes are compared with.
        samples: Samples for the whole model.
        source: The float model.
        job: What was asked for.
    """

    model: ir.Model
    trials: Mapping[str, Trial]
    samples: Samples | None
    source: ModelSource
    job: DynamicJob

    @property
    def external(self) -> bool:
        """Whether tensors go into a data file."""
        if self.job.external is not None:
            return self.job.external
        size = sum(tensor.nbytes for _, tensor in initialized_values(self.model))
        return has_data_file(self.source) or size > _INLINE_BYTES


def _save(result: _Result, destination: Path, clock: Clock) -> tuple[Verification, dict[str, float]]:
    """Save the quantized model; what is renamed to the destination at the end has been verified."""
    job, found = result.job, list[Verification]()
    node_db: dict[str, float] = {}

    def check(path: Path) -> None:
        with clock.stage("verify"):
            if job.level is Level.COMPARED:
                node_db.update(verify_nodes(path, result.trials, progress=job.progress))
            whole = verify_in_memory(result.source, path, result.samples, job.level, job.providers, job.progress)
            found.append(whole)

    save(result.model, destination, external=result.external, check=check)
    return found[0], node_db


def _options(rules: DynamicRules) -> tuple[OptionUsed, ...]:
    spec = rules.weight
    text = (
        spec.qtype.name,
        "symmetric" if spec.symmetric else "asymmetric",
        "one bit less" if spec.reduce_range else "",
    )
    scales = "per channel" if rules.per_channel else "per tensor"
    return (
        OptionUsed("activations", "uint8, quantized at run time", "dynamic quantization"),
        OptionUsed("weights", ", ".join(filter(None, (*text, scales))), f"target {rules.target} or caller"),
    )


def _figures(
    plan: DynamicPlan, decibels: Mapping[str, float], node_db: Mapping[str, float]
) -> tuple[WeightFigures, ...]:
    forms = {key: node.form.value for node in plan.nodes.values() for key in node.weights.values()}
    return tuple(
        WeightFigures(
            weight=weight.key,
            nodes=weight.readers,
            form=forms[weight.key],
            bits=weight.spec.qtype.bits,
            block_size=-1,
            symmetric=weight.spec.symmetric,
            asked="rtn",
            algorithm="rtn",
            sqnr_db=decibels[weight.key],
            rtn_db=decibels[weight.key],
            node_db=min((node_db[node] for node in weight.readers if node in node_db), default=None),
        )
        for weight in plan.weights.values()
    )
