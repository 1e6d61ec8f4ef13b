"""What loading and running a result showed: figures of outputs, kernels, sizes and speed."""

import math
from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How far a result was verified."""

    NONE = "not verified"
    CHECKED = "valid ONNX, never loaded"
    LAYERS = "loads in ONNX Runtime, and each packed layer ran beside its weight"
    LOADED = "loads in ONNX Runtime, not compared for want of samples"
    COMPARED = "ran beside the float model"


class Outcome(Enum):
    """What ONNX Runtime made of a planned node."""

    INTEGER = "integer kernel"
    FLOAT = "float"
    MERGED = "part of a neighbour's kernel"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputFigures:
    """One graph output, quantized against float, over all held-back samples.

    Attributes:
        name: The output.
        elements: Elements compared.
        sqnr_db: Signal to quantization noise in dB; None unless the output is float.
        cosine: Cosine similarity; None unless float.
        max_abs_error: Largest difference, in the output's unit; None unless float.
        mean_error: Mean of quantized - float, in the output's unit; None unless float.
        equal: Share of equal elements, 0 to 1; None for a float output.
        broken: Elements that were finite and became NaN or infinite.
        other_shapes: Samples whose data-dependent shapes differed (number of detections …); not compared.
    """

    name: str
    elements: int
    sqnr_db: float | None = None
    cosine: float | None = None
    max_abs_error: float | None = None
    mean_error: float | None = None
    equal: float | None = None
    broken: int = 0
    other_shapes: int = 0


@dataclass(frozen=True, slots=True)
class NodeKernel:
    """A planned node and the kernel that it became; ``reason`` says why where that is float."""

    node: str
    op_type: str
    outcome: Outcome
    kernel: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Bytes of model file and external data."""

    float_bytes: int
    quantized_bytes: int

    @property
    def ratio(self) -> float:
        """Quantized over float; below 1 is smaller."""
        return self.quantized_bytes / self.float_bytes if self.float_bytes else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Median seconds of one run, measured in turns, with ``threads`` threads (0: the runtime's choice)."""

    float_seconds: float
    quantized_seconds: float
    threads: int
    runs: int

    @property
    def speedup(self) -> float:
        """Float over quantized; above 1 is faster."""
        return self.float_seconds / self.quantized_seconds if self.quantized_seconds else math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What loading and running the written result showed.

    Attributes:
        level: How far it was verified.
        samples: Held-back samples that both models ran on.
        outputs: Figures of the graph outputs, in graph order; empty without samples.
        kernels: What became of the planned nodes; None where the provider does not tell.
        sizes: Of both models.
        latency: Of both models; None where it was not measured.
        providers: Execution providers of the session that ran.
        notes: Remarks for the reader, such as a check that could not be made.
    """

    level: Level = Level.NONE
    samples: int = 0
    outputs: tuple[OutputFigures, ...] = ()
    kernels: tuple[NodeKernel, ...] | None = None
    sizes: Sizes | None = None
    latency: Latency | None = None
    providers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def of_outcome(self, outcome: Outcome) -> list[NodeKernel]:
        """The planned nodes with that outcome."""
        return [kernel for kernel in self.kernels or () if kernel.outcome is outcome]

    @property
    def worst_db(self) -> float | None:
        """SQNR of the worst float output, None if there is none."""
        return min((o.sqnr_db for o in self.outputs if o.sqnr_db is not None), default=None)
