"""Verify: load what was written, run it beside the float model, and tell what became of it."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from vqonnx.calibration.feeds import Feed
from vqonnx.core.plan import Plan
from vqonnx.errors import VerificationError
from vqonnx.graph.external import external_tensors, is_inside
from vqonnx.graph.io import load
from vqonnx.graph.proto import PROTO_LIMIT, initialized_values, to_proto
from vqonnx.progress import Progress, silent
from vqonnx.report.figures import Latency, Level, NodeKernel, OutputFigures, Sizes, Verification
from vqonnx.runtime.session import open_session
from vqonnx.stages import latency
from vqonnx.stages.compare import ModelPair
from vqonnx.stages.integer_kernels import integer_kernels
from vqonnx.stages.recorded import RecordedModel

_CPU = "CPUExecutionProvider"
_FEEDS_TIMED = 3

_KEEP_INT8 = "session.qdqisint8allowed"
_TOLD = (
    f"verified with the session option {_KEEP_INT8}=1, which keeps int8 as the device does; "
    "without it, ONNX Runtime on an x86 CPU may refuse to load the model"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """How much ``verify`` does.

    Attributes:
        level: CHECKED validates the file only, for results that no provider here can run; LOADED opens it too;
            COMPARED, the default, also runs it beside the float model. NONE does nothing but measure sizes.
        providers: Execution providers, best first.
        latency_threads: Threads inside one operator while time is measured; 0 leaves it to ONNX Runtime.
        latency_seconds: Time to spend on measuring; 0 measures nothing.
        kernels: Whether to find out which planned nodes became integer kernels, which opens the model once more.
        float_bytes: Bytes of the float model's files; of its tensors where None.
        quantized_bytes: Bytes of the quantized model's files, where they are known.
        recorded: What the float model gives for the samples, where it is too large to be open beside the other.
    """

    level: Level = Level.COMPARED
    providers: tuple[str, ...] = (_CPU,)
    latency_threads: int = 1
    latency_seconds: float = 1.0
    kernels: bool = True
    float_bytes: int | None = None
    quantized_bytes: int | None = None
    recorded: RecordedModel | None = None


def verify(
    float_model: ir.Model | Path,
    quantized: Path,
    samples: Iterable[Feed],
    plan: Plan,
    *,
    options: VerifyOptions = VerifyOptions(),
    progress: Progress = silent,
) -> Verification:
    """Check, load and run ``quantized``; the file is only read.

    Args:
        float_model: What it was made from; the same graph inputs and outputs.
        quantized: The written file, possibly still under a temporary name.
        samples: Feeds held back from calibration, read once; without any the result is loaded, not compared.
        plan: What was planned, to be compared with the kernels of the optimized graph.
        options: How much to do.
        progress: Told of each sample.

    Raises:
        VerificationError: The file is not valid ONNX, ONNX Runtime does not load or run it, or an output is
            missing or has another type or shape. The message is ORT's or the checker's, with a way out.
        DependencyError: A provider is not installed.
    """
    notes = [] if options.level is Level.NONE else list(_check(quantized, float_model))
    sizes = Sizes(
        float_bytes=model_bytes(float_model) if options.float_bytes is None else options.float_bytes,
        quantized_bytes=model_bytes(quantized) if options.quantized_bytes is None else options.quantized_bytes,
    )
    if options.level is Level.NONE:
        return Verification(sizes=sizes)
    if options.level is Level.CHECKED:
        return Verification(level=Level.CHECKED, sizes=sizes, notes=tuple(notes))
    if plan.keeps_int8:
        notes.append(_TOLD)
    kernels = _kernels(quantized, plan, options, notes)
    count, figures, timed = 0, tuple[OutputFigures, ...](), None
    if options.level is Level.COMPARED:
        kept = _FirstFeeds(samples)
        pair = _opened(options.recorded or float_model, quantized, plan, options, None)
        count, figures = pair.compared(kept, progress)
        if options.recorded is not None:
            timed = latency.after(options.recorded.seconds, pair.actual, kept.feeds)
        else:
            del pair
            timed = _latency(float_model, quantized, plan, kept.feeds, options)
    return Verification(
        level=Level.COMPARED if count else Level.LOADED,
        samples=count,
        outputs=figures,
        kernels=kernels,
        sizes=sizes,
        latency=timed,
        providers=options.providers,
        notes=tuple(notes),
    )


def model_bytes(model: ir.Model | Path) -> int:
    """Bytes of the file and of the external data that it refers to; of the tensors alone for a model in memory."""
    if isinstance(model, Path):
        return file_bytes(model, load(model))
    return sum(tensor.nbytes for _, tensor in initialized_values(model))


def file_bytes(path: Path, model: ir.Model) -> int:
    """Bytes of a file and of its external data; ``model`` is what was loaded from it."""
    tensors = (tensor for tensor in external_tensors(model) if not is_inside(tensor, path))
    parts = {(str(tensor.location), tensor.offset): tensor.nbytes for tensor in tensors}
    return path.stat().st_size + sum(parts.values())


class _FirstFeeds:
    """Passes samples on and keeps the first few, for timing; a one-shot iterable is read only once."""

    def __init__(self, samples: Iterable[Feed]) -> None:
        self._samples = samples
        self.feeds: list[Feed] = []

    def __iter__(self) -> Iterator[Feed]:
        for feed in self._samples:
            if len(self.feeds) < _FEEDS_TIMED:
                self.feeds.append(feed)
            yield feed


def _check(quantized: Path, float_model: ir.Model | Path) -> Iterator[str]:
    """Validate the file with onnx.checker; a fault that the float model has too is only noted."""
    fault = _fault(str(quantized))
    if fault is None:
        return
    if _fault(_checkable(float_model)) is None:
        raise VerificationError(
            f"the quantized model is not valid ONNX: {fault}. Nothing was saved; exclude the node it names "
            "(nodes_to_exclude) and report it.",
            path=str(quantized),
        )
    yield f"onnx.checker refuses the result and the float model alike: {fault}"


def _checkable(model: ir.Model | Path) -> str | onnx.ModelProto | None:
    """What the checker takes; None for a model in memory that does not fit into one message."""
    if isinstance(model, Path):
        return str(model)
    return to_proto(model) if model_bytes(model) < PROTO_LIMIT // 2 else None


def _fault(model: str | onnx.ModelProto | None) -> str | None:
    """The first line of what the checker objects to. It passes nodes of domains that it does not know."""
    if model is None:
        return None
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        return str(error).strip().splitlines()[0]
    return None


def _kernels(quantized: Path, plan: Plan, options: VerifyOptions, notes: list[str]) -> tuple[NodeKernel, ...] | None:
    """Open the model, which proves that it loads, and read the kernels; None, with a note, where they are unknown."""
    if not options.kernels:
        with _refused(quantized):
            open_session(quantized, providers=options.providers, options=_settings(plan))
        return None
    reason = f"{options.providers[0]} does not tell which nodes it runs in integers"
    if options.providers == (_CPU,):
        try:
            return integer_kernels(quantized, plan, providers=options.providers, options=_settings(plan))
        except VerificationError as error:
            reason = f"the integer kernels are not known: {error}"
    # Either the model does not load, which this tells, or only its optimized graph could not be written.
    with _refused(quantized):
        open_session(quantized, providers=options.providers, options=_settings(plan))
    notes.append(reason)
    return None


def _settings(plan: Plan) -> Mapping[str, str]:
    """What a session over the quantized model is told, so that it stands for the device."""
    return {_KEEP_INT8: "1"} if plan.keeps_int8 else {}


def _opened(
    float_model: ir.Model | Path | RecordedModel,
    quantized: Path,
    plan: Plan,
    options: VerifyOptions,
    threads: int | None,
) -> ModelPair:
    with _refused(quantized):
        return ModelPair.open(
            float_model, quantized, providers=options.providers, threads=threads, options=_settings(plan)
        )


def _latency(
    float_model: ir.Model | Path, quantized: Path, plan: Plan, feeds: Sequence[Feed], options: VerifyOptions
) -> Latency | None:
    """In sessions of their own: those that computed figures use all cores, and are closed by now."""
    if not feeds or not options.latency_seconds:
        return None
    threads = options.latency_threads
    pair = _opened(float_model, quantized, plan, options, threads)
    return latency.measure(pair.reference, pair.actual, feeds, threads=threads, seconds=options.latency_seconds)


@contextlib.contextmanager
def _refused(quantized: Path) -> Iterator[None]:
    """Say that nothing was saved, and what to do."""
    try:
        yield
    except VerificationError as error:
        raise VerificationError(
            f"the quantized model was not saved: {error} If it names a node, exclude that one (nodes_to_exclude); "
            "verify='checker' saves the model without running it.",
            path=str(quantized),
        ) from error
