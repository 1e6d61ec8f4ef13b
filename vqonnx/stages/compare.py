"""Run two models beside each other, sample by sample, and keep sums of their differences, never the tensors."""

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import onnx_ir as ir

from vqonnx.calibration.feeds import Feed
from vqonnx.errors import VerificationError
from vqonnx.graph import walk
from vqonnx.graph.io import load
from vqonnx.progress import Progress, silent
from vqonnx.report.figures import OutputFigures
from vqonnx.runtime.package import runtime_errors
from vqonnx.runtime.session import add_outputs, open_session
from vqonnx.stages.output_sums import OutputSums
from vqonnx.stages.recorded import RecordedModel

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_CPU = ("CPUExecutionProvider",)
# Tensors fetched at a time by ``compare_tensors``: few enough to hold, enough that few sessions are opened.
_GROUP = 64


@dataclass(frozen=True, slots=True, eq=False)
class ModelPair:
    """A float model and its quantized form, both open, and their common outputs."""

    reference: "InferenceSession | RecordedModel"
    actual: "InferenceSession"
    names: tuple[str, ...]

    @classmethod
    def open(
        cls,
        reference: ir.Model | Path | RecordedModel,
        actual: ir.Model | Path,
        *,
        providers: Sequence[str] = _CPU,
        threads: int | None = None,
        options: Mapping[str, str] = MappingProxyType({}),
    ) -> "ModelPair":
        """Open both with the same settings; but not what was recorded, and ``options`` are the quantized model's.

        Raises:
            VerificationError: ONNX Runtime refuses one, or the quantized model lacks an output.
            ModelError: A file is missing or cannot be parsed.
        """
        expected: InferenceSession | RecordedModel
        if isinstance(reference, RecordedModel):
            expected = reference
        else:
            expected = open_session(reference, providers=providers, threads=threads)
        given = open_session(actual, providers=providers, threads=threads, options=options)
        names = tuple(output.name for output in expected.get_outputs())
        present = {output.name for output in given.get_outputs()}
        for name in names:
            if name not in present:
                raise VerificationError(
                    f"the quantized model has no output {name!r}; it has {sorted(present)}. Compare a model with "
                    "the result that was made from it."
                )
        return cls(expected, given, names)

    def compared(self, samples: Iterable[Feed], progress: Progress = silent) -> tuple[int, tuple[OutputFigures, ...]]:
        """Run both models on every sample, one at a time.

        Returns:
            The number of samples, and the figures of each output; none without samples.

        Raises:
            VerificationError: A model does not run, or the structure of an output differs.
        """
        total = len(samples) if isinstance(samples, Sized) else None
        sums = self._empty_sums()
        count = 0
        for feed in samples:
            expected, given = (self._run(session, feed, count) for session in (self.reference, self.actual))
            sums = [one.add(*pair) for one, *pair in zip(sums, expected, given, strict=True)]
            count += 1
            progress("verify", count, total)
        return count, tuple(one.figures() for one in sums) if count else ()

    def _run(self, session: "InferenceSession | RecordedModel", feed: Feed, sample: int) -> list[object]:
        which = "float" if session is self.reference else "quantized"
        with runtime_errors(f"run the {which} model on held-back sample {sample}"):
            results: list[object] = session.run(list(self.names), dict(feed))
        return results

    def _empty_sums(self) -> list[OutputSums]:
        """One a name. An axis is free unless its size is fixed, or bears a name that an input's axis bears."""
        known = {axis for value in self.reference.get_inputs() for axis in value.shape if isinstance(axis, str)}
        shapes = {value.name: value.shape for value in self.reference.get_outputs()}
        return [OutputSums(name, _free(shapes[name], known)) for name in self.names]


def _free(shape: Sequence[int | str | None] | None, known: set[str]) -> tuple[bool, ...] | None:
    # ORT gives no axes for an unknown rank and for a scalar alike.
    return tuple(not isinstance(axis, int) and axis not in known for axis in shape) if shape else None


def compare(
    reference: ir.Model | Path | RecordedModel,
    actual: ir.Model | Path,
    samples: Iterable[Feed],
    *,
    providers: Sequence[str] = _CPU,
    progress: Progress = silent,
) -> tuple[OutputFigures, ...]:
    """How far each output of ``actual`` is from the same output of ``reference``, over all samples.

    Raises:
        VerificationError: A model does not load or run, or an output is missing or has another structure.
        ModelError: A file is missing or cannot be parsed.
    """
    _, figures = ModelPair.open(reference, actual, providers=providers).compared(samples, progress)
    return figures


def compare_tensors(
    reference: ir.Model | Path,
    actual: ir.Model | Path,
    samples: Sequence[Feed],
    *,
    providers: Sequence[str] = _CPU,
    progress: Progress = silent,
) -> tuple[OutputFigures, ...]:
    """The same for every float tensor of the main graph whose name is in both models, in graph order.

    A tensor that is put out is not fused away, so the figures show where error arises and not, to the last digit,
    what the untouched model computes. The samples are run once for each 64 tensors.

    Raises:
        VerificationError: A model does not load or run, or a tensor has another structure.
        ModelError: A file is missing or cannot be parsed.
    """
    models = [load(model) for model in (reference, actual)]
    shared = _shared_tensors(*models)
    figures: list[OutputFigures] = []
    for start in range(0, len(shared), _GROUP):
        names = shared[start : start + _GROUP]
        expected, given = (open_session(_only(model, names), providers=providers) for model in models)
        figures += ModelPair(expected, given, names).compared(samples, progress)[1]
    return tuple(figure for figure in figures if figure.sqnr_db is not None)


def _shared_tensors(reference: ir.Model, actual: ir.Model) -> tuple[str, ...]:
    present = {value.name for node in actual.graph for value in node.outputs}
    computed = (value for node in reference.graph for value in node.outputs)
    # Files need not tell the types of inner values; those that turn out to be integers are dropped afterwards.
    maybe_float = (value for value in computed if value.dtype is None or walk.is_float(value))
    return tuple(value.name for value in maybe_float if value.name and value.name in present)


def _only(model: ir.Model, names: tuple[str, ...]) -> ir.Model:
    exposed = add_outputs(model, names)
    kept = [value for value in exposed.graph.outputs if value.name in set(names)]
    exposed.graph.outputs[:] = kept
    return exposed
