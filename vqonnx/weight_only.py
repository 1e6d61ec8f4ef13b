"""Weight-only quantization from file to file: one float weight in memory at a time."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from os import PathLike
from pathlib import Path

from vqonnx.calibration.model import model_inputs
from vqonnx.calibration.readers import Reader, open_samples
from vqonnx.calibration.samples import Samples
from vqonnx.clock import Clock
from vqonnx.core.plan import Plan
from vqonnx.graph.atomic import check_writable
from vqonnx.graph.external import external_tensors, is_inside
from vqonnx.graph.io import ModelSource, load, save
from vqonnx.graph.proto import initialized_values
from vqonnx.packing import Packing, WeightOnlyJob, Written
from vqonnx.report.figures import Level, Verification
from vqonnx.report.model import Report
from vqonnx.runtime.machine import free_memory
from vqonnx.stages.verify import VerifyOptions, model_bytes, verify
from vqonnx.stages.verify_weights import verify_layers
from vqonnx.stages.weight_store import WeightStore
from vqonnx.version import __version__

_INLINE_BYTES = 1 << 28
"""Packed models up to this size stay one file, unless the float model had a data file."""


def pack_file(source: ModelSource, destination: Path, reader: Reader | None, job: WeightOnlyJob) -> Report:
    """Run every stage and write the result; the path holds the old file until the new one has been verified.

    Raises:
        VqonnxError: As ``api.quantize_weight_only``.
    """
    check_writable(destination)
    clock = Clock()
    with clock.stage("load"):
        packing = Packing.of(load(source), job)
    with ExitStack() as stack:
        samples = None
        if reader is not None:
            samples = stack.enter_context(open_samples(reader, model_inputs(packing.model)))
        store = stack.enter_context(_work(destination, packing.digest(samples)))
        with clock.stage("solve"):
            packing.solve(store, samples, store.folder)
        with clock.stage("emit"):
            written = packing.emit(store)
        verification, node_db = _saved(packing, written, samples, source, destination, clock)
        report = Report(
            version=__version__,
            target=f"weights: {job.rules.form.value}",
            quantized=Counter(layer.op_type for layer in packing.plan.layers.values()),
            skips=packing.plan.skips,
            verification=verification,
            weights=packing.figures(store, node_db),
            seconds=clock.seconds,
            samples=0 if samples is None else len(samples.calibration),
            min_sqnr_db=job.min_sqnr_db,
            notes=tuple(packing.notes),
        )
        store.remove()
    return report


@contextmanager
def _work(destination: Path, job: str) -> Iterator[WeightStore]:
    """The folder of solved weights; it stays when a run fails that has solved some."""
    with WeightStore(work_folder(destination), job) as store:
        try:
            yield store
        except BaseException:
            if not store:
                store.remove()
            raise


def work_folder(destination: Path) -> Path:
    """Where solved weights wait until the output is complete; an interrupted run finds them there."""
    return destination.with_name(f".{destination.name}.work")


def _saved(
    packing: Packing,
    written: Written,
    samples: Samples | None,
    float_model: ModelSource,
    destination: Path,
    clock: Clock,
) -> tuple[Verification, dict[str, float]]:
    """Save the packed model; what is renamed to the destination at the end has been verified."""
    job, model = packing.job, packing.model
    found: list[Verification] = []
    node_db: dict[str, float] = {}
    external = job.external
    if external is None:
        packed_bytes = sum(tensor.nbytes for _, tensor in initialized_values(model))
        external = _has_data_file(float_model) or packed_bytes > _INLINE_BYTES

    def check(path: Path) -> None:
        with clock.stage("verify"):
            if job.level is Level.COMPARED:
                node_db.update(verify_layers(path, packing.plan, written.ends, written.packed, progress=job.progress))
            found.append(_verified(packing, samples, float_model, path))

    save(model, destination, external=external, check=check)
    return found[0], node_db


def _has_data_file(source: ModelSource) -> bool:
    if not isinstance(source, (str, PathLike)):
        return False
    return any(not is_inside(tensor, Path(source)) for tensor in external_tensors(load(source)))


def _verified(packing: Packing, samples: Samples | None, source: ModelSource, path: Path) -> Verification:
    """What the whole written model shows, as far as it was asked for and fits into memory."""
    job = packing.job
    reference = Path(source) if isinstance(source, (str, PathLike)) else load(source)
    float_bytes = model_bytes(reference)
    fits = 3 * (float_bytes + model_bytes(path)) < free_memory()
    level = job.level
    if level is Level.COMPARED and (samples is None or not fits):
        level = Level.LOADED if fits else Level.CHECKED
    options = VerifyOptions(level=level, providers=job.providers, float_bytes=float_bytes, kernels=False)
    held_back = () if samples is None else samples.held_back
    seen = verify(reference, path, held_back, Plan(target=""), options=options, progress=job.progress)
    by_layers = job.level is Level.COMPARED and seen.level is not Level.COMPARED
    return replace(seen, level=Level.LAYERS) if by_layers else seen
