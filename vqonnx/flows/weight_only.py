"""Weight-only quantization from file to file: one float weight in memory at a time."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path

import onnx_ir as ir

from vqonnx.calibration.model import model_inputs
from vqonnx.calibration.readers import Reader, open_samples
from vqonnx.calibration.samples import Samples
from vqonnx.core.plan import Plan
from vqonnx.flows.clock import Clock
from vqonnx.flows.kept import Left, keep_file, quantized_parts
from vqonnx.flows.packing import Packing, WeightOnlyJob, Written
from vqonnx.graph.atomic import check_writable
from vqonnx.graph.external import external_tensors, is_inside
from vqonnx.graph.io import ModelSource, load, save
from vqonnx.graph.proto import initialized_values
from vqonnx.planning.weights.plan import NothingToPackError
from vqonnx.report.figures import Level, Verification
from vqonnx.report.model import Report
from vqonnx.runtime.machine import free_memory
from vqonnx.stages.verify import VerifyOptions, file_bytes, model_bytes, verify
from vqonnx.stages.weights.store import WeightStore
from vqonnx.stages.weights.verify import verify_layers
from vqonnx.version import __version__

_INLINE_BYTES = 1 << 28
"""Packed models up to this size stay one file, unless the float model had a data file."""


@dataclass(frozen=True, slots=True)
class _FloatModel:
    """What is known of the float model, of whose private copy the packed one is made.

    Attributes:
        source: What the caller gave.
        nbytes: Bytes of its files, or of its tensors.
        has_data_file: Whether tensors lie in a file of their own.
    """

    source: ModelSource
    nbytes: int
    has_data_file: bool

    @classmethod
    def of(cls, source: ModelSource, model: ir.Model) -> "_FloatModel":
        """From what was given and what was loaded from it."""
        if isinstance(source, ir.Model):
            return cls(source, model_bytes(model), False)
        if not isinstance(source, (str, PathLike)):
            return cls(source, source.ByteSize(), False)
        path = Path(source)
        outside = any(not is_inside(tensor, path) for tensor in external_tensors(model))
        return cls(path, file_bytes(path, model), outside)

    def reference(self) -> ir.Model | Path:
        """It, as verification runs it."""
        return self.source if isinstance(self.source, Path) else load(self.source)


def pack_file(source: ModelSource, destination: Path, reader: Reader | None, job: WeightOnlyJob) -> Report:
    """Run every stage and write the result; the path holds the old file until the new one has been verified.

    Raises:
        VqonnxError: As ``api.quantize_weight_only``.
    """
    check_writable(destination)
    clock = Clock()
    with clock.stage("load"):
        model = load(source)
        float_model = _FloatModel.of(source, model)
        parts = quantized_parts(model, job.already_quantized)
        try:
            packing = Packing.of(model, job)
        except NothingToPackError as error:
            if not parts:
                raise
            return keep_file(source, destination, reader, Left(f"weights: {job.rules.form.value}", error.skips), job)
    with ExitStack() as stack:
        samples = None
        if reader is not None:
            samples = stack.enter_context(open_samples(reader, model_inputs(packing.model)))
        store = stack.enter_context(_work(destination, packing.digest(samples)))
        packing.notes.extend([store.note] if store.note else [])
        with clock.stage("solve"):
            packing.solve(store, samples, store.folder)
        with clock.stage("emit"):
            written = packing.emit(store)
        seen = _save(_Result(packing, written, samples, float_model), destination, clock)
        report = Report(
            version=__version__,
            target=f"weights: {job.rules.form.value}",
            quantized=Counter(layer.op_type for layer in packing.plan.layers.values()),
            skips=packing.plan.skips,
            verification=seen.whole,
            weights=packing.figures(store, seen.node_db),
            seconds=clock.seconds,
            samples=0 if samples is None else len(samples.calibration),
            min_sqnr_db=job.min_sqnr_db,
            notes=(*packing.notes, *seen.notes),
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


@dataclass(frozen=True, slots=True)
class _Seen:
    """What verification saw: the whole model, each layer's SQNR in dB by node name, and layers that were not run."""

    whole: Verification
    node_db: Mapping[str, float]
    notes: Sequence[str]


@dataclass(frozen=True, slots=True, eq=False)
class _Result:
    """A packed model that is to be written and verified."""

    packing: Packing
    written: Written
    samples: Samples | None
    float_model: _FloatModel

    @property
    def external(self) -> bool:
        """Whether tensors go into a data file."""
        if self.packing.job.external is not None:
            return self.packing.job.external
        packed_bytes = sum(tensor.nbytes for _, tensor in initialized_values(self.packing.model))
        return self.float_model.has_data_file or packed_bytes > _INLINE_BYTES

    def verified(self, path: Path) -> _Seen:
        """Run what was written to ``path``: layer by layer, and whole."""
        job, model = self.packing.job, load(path)
        node_db, notes = dict[str, float](), list[str]()
        if job.level is Level.COMPARED:
            node_db, notes = verify_layers(
                model,
                self.packing.plan,
                self.written.ends,
                self.written.packed,
                providers=job.providers,
                progress=job.progress,
            )
        return _Seen(self._whole(path, file_bytes(path, model)), node_db, notes)

    def _whole(self, path: Path, size: int) -> Verification:
        """What the whole model shows, as far as it was asked for and fits into memory."""
        job, samples, float_bytes = self.packing.job, self.samples, self.float_model.nbytes
        fits = 3 * (float_bytes + size) < free_memory()
        level = job.level
        if level is Level.COMPARED and (samples is None or not fits):
            level = Level.LOADED if fits else Level.CHECKED
        options = VerifyOptions(
            level=level, providers=job.providers, float_bytes=float_bytes, quantized_bytes=size, kernels=False
        )
        held_back = () if samples is None else samples.held_back
        reference = self.float_model.reference()
        seen = verify(reference, path, held_back, Plan(target=""), options=options, progress=job.progress)
        by_layers = job.level is Level.COMPARED and seen.level is not Level.COMPARED
        return replace(seen, level=Level.LAYERS) if by_layers else seen


def _save(result: _Result, destination: Path, clock: Clock) -> _Seen:
    """Write the packed model; what is renamed to the destination at the end has been verified."""
    seen: list[_Seen] = []

    def check(path: Path) -> None:
        with clock.stage("verify"):
            seen.append(result.verified(path))

    save(result.packing.model, destination, external=result.external, check=check)
    return seen[0]
