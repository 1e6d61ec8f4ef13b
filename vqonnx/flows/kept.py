"""A model in which nothing is left to quantize goes through as it came."""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, get_args

import onnx_ir as ir

from vqonnx.calibration.model import model_inputs
from vqonnx.calibration.readers import Reader, open_samples
from vqonnx.core.plan import Skip
from vqonnx.errors import OptionError
from vqonnx.flows.clock import Clock
from vqonnx.graph import atomic
from vqonnx.graph.io import ModelSource, load, save
from vqonnx.graph.pending import pending_files, synced_file
from vqonnx.planning.quantized import quantized_nodes, refuse_quantized
from vqonnx.progress import Progress
from vqonnx.report.figures import Level, Verification
from vqonnx.report.model import Report
from vqonnx.stages.verify_in_memory import has_data_file, verify_in_memory
from vqonnx.version import __version__

AlreadyQuantized = Literal["keep", "refuse"]
"""What becomes of a model that has quantized parts."""

NOTE = "the model was quantized already, and nothing was left to do"


@dataclass(frozen=True, slots=True)
class Left:
    """Name of the target, and why nothing more of a model becomes integer."""

    target: str
    skips: Sequence[Skip]


class Asked(Protocol):
    """What every job says of its result.

    Attributes:
        level: How far it is verified.
        providers: Execution providers of the sessions.
        external: Write tensors into a data file; None: as they came.
        progress: Told how far each stage is.
    """

    @property
    def level(self) -> Level:
        """See above."""
        ...

    @property
    def providers(self) -> tuple[str, ...]:
        """See above."""
        ...

    @property
    def external(self) -> bool | None:
        """See above."""
        ...

    @property
    def progress(self) -> Progress:
        """See above."""
        ...


def quantized_parts(model: ir.Model, already_quantized: AlreadyQuantized) -> list[ir.Node]:
    """What of a model is quantized already.

    Raises:
        OptionError: ``already_quantized`` is neither "keep" nor "refuse".
        UnsupportedModelError: Something is, and "refuse" was asked for.
    """
    if already_quantized not in get_args(AlreadyQuantized):
        known = " and ".join(map(repr, get_args(AlreadyQuantized)))
        raise OptionError(f"already_quantized: {already_quantized!r} is none of {known}.", option="already_quantized")
    found = quantized_nodes(model)
    if already_quantized == "refuse":
        refuse_quantized(found)
    return found


def keep_file(source: ModelSource, destination: Path, reader: Reader | None, left: Left, job: Asked) -> Report:
    """Write a model unchanged; the path holds the old file until the new one is complete.

    A file without external data comes out with the same bytes.

    Args:
        source: The model.
        destination: Where it goes.
        reader: Samples to run it on, if there are any; those held back are.
        left: What was found of it.
        job: What was asked for.

    Raises:
        ModelError: The model cannot be read.
        OutputError: The output cannot be written.
        VerificationError: It does not load; nothing was written.
    """
    atomic.check_writable(destination)
    clock, found = Clock(), list[Verification]()
    with clock.stage("load"):
        model = load(source)
        external = (has_data_file(source) or None) if job.external is None else job.external
        whole = Path(source) if isinstance(source, str | os.PathLike) and not external else None

    def check(path: Path) -> None:
        with ExitStack() as stack, clock.stage("verify"):
            samples = None if reader is None else stack.enter_context(open_samples(reader, model_inputs(model)))
            level = Level.LOADED if samples is None and job.level is Level.COMPARED else job.level
            found.append(verify_in_memory(source, path, samples, level, job.providers, job.progress))

    if whole is None or has_data_file(whole):
        save(model, destination, external=external, check=check)
    else:
        _copy(whole, destination, check)
    return Report(
        version=__version__,
        target=left.target,
        skips=tuple(left.skips),
        verification=found[0],
        seconds=clock.seconds,
        notes=(NOTE,),
    )


def _copy(source: Path, destination: Path, check: Callable[[Path], None]) -> None:
    """Copy a file in one step; what is renamed to the destination at the end has been checked."""
    with pending_files(destination) as files:
        draft = files.new(destination)
        with source.open("rb") as original, synced_file(draft) as file:
            shutil.copyfileobj(original, file)
        check(draft)
        files.place(draft, destination)
