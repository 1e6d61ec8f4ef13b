"""Static quantization, the whole flow: float model and samples in, verified quantized model and report out."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from vqonnx.calibration.model import model_inputs
from vqonnx.calibration.readers import Reader, open_samples
from vqonnx.calibration.samples import Samples
from vqonnx.core.spec import QuantSpec
from vqonnx.flows.clock import Clock
from vqonnx.flows.drafting import Drafting
from vqonnx.flows.job import Draft, StaticJob
from vqonnx.graph.atomic import check_writable
from vqonnx.graph.external import external_tensors, is_inside
from vqonnx.graph.io import ModelSource, load, save
from vqonnx.quantizers.options import QuantizerOptions
from vqonnx.quantizers.preparation import prepare_for
from vqonnx.report.figures import Level, Verification
from vqonnx.report.model import OptionUsed, Report
from vqonnx.stages.adapt import adapt, adapt_border, approximate
from vqonnx.stages.equalize import equalize
from vqonnx.stages.layer_equalization import Equalization, equalized_layers
from vqonnx.stages.observe import ObserveOptions
from vqonnx.stages.plan import make_plan
from vqonnx.stages.prepare import Prepared
from vqonnx.stages.recorded import RecordedModel
from vqonnx.stages.smooth import smooth
from vqonnx.stages.verify import VerifyOptions, model_bytes, verify
from vqonnx.version import __version__


def quantize_file(source: ModelSource, destination: Path, reader: Reader, job: StaticJob) -> Report:
    """Run every stage and write the result; the path holds the old file until the new one has been verified.

    Raises:
        VqonnxError: As ``api.quantize_static``.
    """
    check_writable(destination)
    clock = Clock()
    with clock.stage("load"):
        model = load(source)
        size = _bytes(source, model)
        if job.external is None and _has_data_file(source, model):
            job = replace(job, external=True)
        adapt_border(model, job.options.adaptation)
    with open_samples(reader, model_inputs(model)) as samples:
        with clock.stage("prepare"):
            prepared = prepare_for(model, job.options)
            reference, changes, inside = adapted(prepared, job.options)
            job = _without(job, inside)
        job = _smoothed(prepared.model, samples, job, clock)
        drafting, how, streams = _equalized_best(prepared, reference, samples, job, clock)
        draft = drafting.best()
        verification = _written(drafting, draft, destination, size)
        report = _report(drafting, draft, verification, streams, how)
        return replace(report, options=(*report.options, *changes))


def adapted(
    prepared: Prepared, options: QuantizerOptions
) -> tuple[ir.Model | None, tuple[OptionUsed, ...], tuple[str, ...]]:
    """Give a prepared model the device's operators, in place; only what the device is to run is approximated.

    Returns:
        What it was before it was approximated, None where it was not; what was done, for the report; and the nodes that
        are parts of an operator.
    """
    model, wanted = prepared.model, options.adaptation
    exact, near = adapt(model, wanted), dict[str, int]()
    reference: ir.Model | None = None
    inside: tuple[str, ...] = ()
    if not wanted.is_exact:
        reference = load(model)
        planned = make_plan(model, options.target, options.rules, prepared.folded).nodes
        near, inside = approximate(model, wanted, planned)
    done = {"adapted": exact, "approximated": near}
    told = {name: ", ".join(f"{what} {count}" for what, count in counts.items()) for name, counts in done.items()}
    changes = tuple(OptionUsed(name, text, "target or caller") for name, text in told.items() if text)
    return reference, changes, inside


def _without(job: StaticJob, nodes: Iterable[str]) -> StaticJob:
    """The job with further nodes left float."""
    return replace(job, options=replace(job.options, rules=job.options.rules.without(nodes)))


def _smoothed(model: ir.Model, samples: Samples, job: StaticJob, clock: Clock) -> StaticJob:
    """The job for a model whose outliers went into the weights; the divisions that took nodes stay float."""
    if job.options.smoothing is None:
        return job
    options = ObserveOptions(providers=job.providers, executor=job.executor, progress=job.progress)
    with clock.stage("smooth"):
        divisions = smooth(model, samples.calibration, job.options.smoothing, options)
    return _without(job, divisions)


def _equalized_best(
    prepared: Prepared, reference: ir.Model | None, samples: Samples, job: StaticJob, clock: Clock
) -> tuple[Drafting, Equalization, int]:
    """The model equalized as held-back samples like it best, and how, with the number of equalized streams."""
    ways = job.options.equalizations if job.equalize else (Equalization.NONE,)
    found: list[tuple[Drafting, Equalization, int]] = []
    for how in ways:
        with clock.stage("equalize"):
            model = prepared.model if how is ways[-1] else load(prepared.model)
            if equalized_layers(model, how, job.options.cross_layer) == 0 and how is not Equalization.NONE and found:
                continue  # no link: what was tried before
            streams = _equalized(model, samples, job)
        found.append((_drafting(replace(prepared, model=model), reference, samples, job, clock), how, streams))
    return found[0] if len(found) == 1 else max(found, key=lambda one: one[0].uncorrected_db())


def _drafting(
    prepared: Prepared, reference: ir.Model | None, samples: Samples, job: StaticJob, clock: Clock
) -> Drafting:
    """What makes the drafts; a large float model runs now, while no codes are in memory."""
    recorded = None
    if job.level is Level.COMPARED:
        with clock.stage("compare"):
            recorded = RecordedModel.of_large(reference or prepared.model, samples.held_back, providers=job.providers)
    return Drafting(prepared, samples, job, clock, reference=reference, recorded=recorded)


def _equalized(model: ir.Model, samples: Samples, job: StaticJob) -> int:
    """Scale the channels of residual streams; the number of streams."""
    options = ObserveOptions(providers=job.providers, executor=job.executor, progress=job.progress)
    return equalize(model, samples.calibration, options) if job.equalize else 0


def _bytes(source: ModelSource, model: ir.Model) -> int:
    """Bytes that the float model takes where it is; of its tensors, for a model in memory."""
    if isinstance(source, (str, os.PathLike)):
        return model_bytes(Path(source))
    return model_bytes(model) if isinstance(source, ir.Model) else source.ByteSize()


def _has_data_file(source: ModelSource, model: ir.Model) -> bool:
    """Whether the float model's tensors lie in a file of their own."""
    if not isinstance(source, (str, os.PathLike)):
        return False
    return any(not is_inside(tensor, Path(source)) for tensor in external_tensors(model))


def _written(drafting: Drafting, draft: Draft, destination: Path, float_bytes: int) -> Verification:
    """Save the draft; what is renamed to the destination at the end has been verified."""
    job, found = drafting.job, list[Verification]()
    quantizer = drafting.quantizer(draft.plan)
    quantizer.solutions = draft.solutions

    def check(path: Path) -> None:
        with drafting.clock.stage("verify"):
            options = VerifyOptions(
                level=job.level, providers=job.providers, float_bytes=float_bytes, recorded=drafting.recorded
            )
            samples, model = drafting.samples.held_back, drafting.reference or drafting.prepared.model
            options = _of_this_machine(options, job)
            found.append(verify(model, path, samples, draft.plan, options=options, progress=job.progress))

    with drafting.clock.stage("emit"):
        result = quantizer.result()
    save(result, destination, external=job.external, check=check)
    return found[0]


def _of_this_machine(options: VerifyOptions, job: StaticJob) -> VerifyOptions:
    """Without kernels and times where no session here runs on the device: this machine's say nothing of it."""
    if job.options.target.provider in options.providers:
        return options
    return replace(options, kernels=False, latency_seconds=0.0)


def _report(drafting: Drafting, draft: Draft, verification: Verification, streams: int, how: Equalization) -> Report:
    refinement = draft.refinement
    return Report(
        version=__version__,
        target=draft.plan.target,
        quantized=Counter(node.op_type for node in draft.plan.nodes.values()),
        skips=draft.plan.skips,
        options=_options(drafting.job, draft, streams, how),
        verification=verification,
        guard=draft.guard,
        bias_correction=draft.correction,
        seconds=drafting.clock.seconds,
        samples=len(drafting.samples.calibration),
        min_sqnr_db=drafting.job.min_sqnr_db,
        positions={} if refinement is None else refinement.positions,
        shifts=() if refinement is None else refinement.shifts,
        planned={name: node.op_type for name, node in draft.plan.nodes.items()},
    )


def _options(job: StaticJob, draft: Draft, streams: int, how: Equalization) -> tuple[OptionUsed, ...]:
    """The choices that shaped the result, and who made them."""
    rules, several = job.options.rules, len(job.options.methods) > 1
    given = {
        "activations": _spec_text(rules.activation),
        "weights": _spec_text(rules.weight) + (", per channel" if rules.per_channel else ", per tensor"),
    }
    return (
        OptionUsed("form", rules.form.value, "caller"),
        *(OptionUsed(name, text, f"target {draft.plan.target} or caller") for name, text in given.items()),
        OptionUsed("ranges", draft.method.value, "held-back samples" if several else "caller"),
        OptionUsed("equalized residual streams", str(streams), "model"),
        OptionUsed(
            "equalized layers", how.value, "held-back samples" if len(job.options.equalizations) > 1 else "caller"
        ),
    )


def _spec_text(spec: QuantSpec) -> str:
    symmetry = "symmetric" if spec.symmetric else "asymmetric"
    return f"{spec.qtype.name} {symmetry}" + (", one bit less" if spec.reduce_range else "")
