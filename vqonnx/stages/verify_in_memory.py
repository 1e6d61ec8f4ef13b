"""Verify a written model as a whole, as far as both models fit into memory."""

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

from vqonnx.calibration.samples import Samples
from vqonnx.core.plan import Plan
from vqonnx.graph.external import external_tensors, is_inside
from vqonnx.graph.io import ModelSource, load
from vqonnx.progress import Progress
from vqonnx.report.figures import Level, Verification
from vqonnx.runtime.machine import free_memory
from vqonnx.stages.verify import VerifyOptions, model_bytes, verify


def verify_in_memory(
    source: ModelSource,
    written: Path,
    samples: Samples | None,
    level: Level,
    providers: Sequence[str],
    progress: Progress,
) -> Verification:
    """What the whole written model shows beside the float one.

    Args:
        source: The float model.
        written: The result, whose nodes were compared one by one if ``level`` is ``COMPARED``.
        samples: Those held back are run; None only loads the result.
        level: How far it was asked to go.
        providers: Execution providers.
        progress: Told of each sample.

    Raises:
        VerificationError: As ``stages.verify.verify``.
    """
    reference = Path(source) if isinstance(source, (str, PathLike)) else load(source)
    float_bytes = model_bytes(reference)
    fits = 3 * (float_bytes + model_bytes(written)) < free_memory()
    reached = level
    if reached is Level.COMPARED and (samples is None or not fits):
        reached = Level.LOADED if fits else Level.CHECKED
    options = VerifyOptions(level=reached, providers=tuple(providers), float_bytes=float_bytes, kernels=False)
    held_back = () if samples is None else samples.held_back
    seen = verify(reference, written, held_back, Plan(target=""), options=options, progress=progress)
    by_nodes = level is Level.COMPARED and seen.level is not Level.COMPARED
    return replace(seen, level=Level.LAYERS) if by_nodes else seen


def has_data_file(source: ModelSource) -> bool:
    """Whether tensors of a model lie in a file beside it."""
    if not isinstance(source, (str, PathLike)):
        return False
    return any(not is_inside(tensor, Path(source)) for tensor in external_tensors(load(source)))
