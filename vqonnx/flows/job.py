"""What a static run was asked for, and what it hands from stage to stage."""

import math
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import onnx_ir as ir

from vqonnx.core.plan import Plan
from vqonnx.core.positions import Refinement
from vqonnx.core.solution import Solutions
from vqonnx.core.spec import RangeMethod
from vqonnx.progress import Progress, silent
from vqonnx.quantizers.base import BaseQuantizer
from vqonnx.quantizers.options import QuantizerOptions
from vqonnx.report.figures import Level, OutputFigures
from vqonnx.report.model import BiasCorrection, GuardAction


class Correction(Enum):
    """How biases are corrected."""

    AUTO = "auto"
    ON = "on"
    FAST = "fast"
    OFF = "off"


class Guard(Enum):
    """What is looked at for what would collapse, and left float.

    TENSORS: histograms of single tensors at their scales. OUTPUTS: also the model's outputs on held-back samples.
    """

    OUTPUTS = "outputs"
    TENSORS = "tensors"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticJob:
    """What ``quantize_static`` was asked for, besides model, output and samples.

    Attributes:
        make: Makes the quantizer of a prepared model.
        options: The quantizer's options.
        equalize: Whether the channels of residual streams are scaled alike first.
        guard: What goes back to float.
        correction: How biases are corrected; AUTO measures, and keeps the result where it helps on held-back samples.
        min_sqnr_db: An output below this counts as collapsed.
        level: How far the result is verified.
        providers: Execution providers of all sessions.
        executor: Runs calibration samples in its threads or processes.
        cache: File that keeps the statistics.
        external: Write tensors into a data file; None: when one file does not hold them.
        progress: Told how far each stage is.
    """

    make: Callable[[ir.Model], BaseQuantizer]
    options: QuantizerOptions
    equalize: bool = True
    guard: Guard = Guard.OUTPUTS
    correction: Correction = Correction.AUTO
    min_sqnr_db: float = 10.0
    level: Level = Level.COMPARED
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    executor: Executor | None = None
    cache: Path | None = None
    external: bool | None = None
    progress: Progress = silent


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Draft:
    """A quantized model before it is written.

    Attributes:
        method: How the ranges of its activations were chosen.
        plan: Its plan.
        solutions: Its numbers.
        guard: What the guard did, in order.
        correction: What bias correction did; None if it was not tried.
        figures: Its outputs against float on held-back samples; empty if not compared.
        refinement: What was done about the device's rules on positions; None where it has none.
    """

    method: RangeMethod
    plan: Plan
    solutions: Solutions
    guard: tuple[GuardAction, ...] = ()
    correction: BiasCorrection | None = None
    figures: tuple[OutputFigures, ...] = ()
    refinement: Refinement | None = None

    @property
    def worst_db(self) -> float:
        """SQNR of the worst float output, in dB; inf where there is none."""
        return min((f.sqnr_db for f in self.figures if f.sqnr_db is not None), default=math.inf)

    @property
    def floats(self) -> dict[str, str]:
        """The nodes that the guard left float, with its reasons."""
        return {action.subject: action.reason for action in self.guard}
