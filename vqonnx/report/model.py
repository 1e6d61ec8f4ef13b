"""The report: what was asked, what became of every node, and how good, small and fast the result is."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from vqonnx.core.plan import Skip
from vqonnx.core.positions import Shift
from vqonnx.report.figures import Level, Verification
from vqonnx.report.warnings import find_warnings
from vqonnx.report.weights import WeightFigures

_NOTHING_QUANTIZED = (
    "nothing was quantized, the result computes what the model did; `vqonnx plan MODEL` says why for each node"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardAction:
    """One thing that the accuracy guard changed.

    Attributes:
        subject: Node or tensor.
        action: What was done: "kept float", "16-bit activations" …
        reason: Why.
        before_db: SQNR of the model's worst output before, in dB.
        after_db: The same after.
    """

    subject: str
    action: str
    reason: str
    before_db: float | None = None
    after_db: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasCorrection:
    """What bias correction tried and whether it helped on held-back samples."""

    method: str
    kept: bool
    before_db: float | None = None
    after_db: float | None = None
    corrected: int = 0


@dataclass(frozen=True, slots=True)
class OptionUsed:
    """An option's value and who chose it: "caller", "target cpu", "default"."""

    name: str
    value: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole run.

    Attributes:
        version: Version of vqonnx.
        target: Name of the target.
        quantized: Planned nodes by operator.
        skips: Nodes left float by the plan, with reasons.
        options: The options in force and their sources.
        verification: What the result showed when it was run.
        guard: What the accuracy guard changed, in order.
        bias_correction: What bias correction did; None if it was not tried.
        weights: What became of each packed weight, in graph order; empty for static quantization.
        seconds: Wall time per stage.
        samples: Calibration samples used; those held back are in ``verification``.
        min_sqnr_db: Outputs below this are warned about.
        notes: Remarks of the stages, for the reader.
        positions: -log2 of the scale of each tensor where a device's rules look at it, by tensor.
        shifts: Each of these rules at each node that it holds for, with its slack.
        planned: The operator of each node that the device runs in the planned types, by name, in graph order.
    """

    version: str
    target: str
    quantized: Mapping[str, int] = field(default_factory=dict)
    skips: tuple[Skip, ...] = ()
    options: tuple[OptionUsed, ...] = ()
    verification: Verification = Verification()  # noqa: RUF009 - frozen
    guard: tuple[GuardAction, ...] = ()
    bias_correction: BiasCorrection | None = None
    weights: tuple[WeightFigures, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    samples: int = 0
    min_sqnr_db: float = 10.0
    notes: tuple[str, ...] = ()
    positions: Mapping[str, int] = field(default_factory=dict)
    shifts: tuple[Shift, ...] = ()
    planned: Mapping[str, str] = field(default_factory=dict)

    @property
    def violations(self) -> tuple[Shift, ...]:
        """The rules that do not hold."""
        return tuple(shift for shift in self.shifts if shift.slack < 0)

    @property
    def verified(self) -> bool:
        """Whether the result ran beside the float model."""
        return self.verification.level is Level.COMPARED

    @property
    def skip_reasons(self) -> list[tuple[str, Counter[str]]]:
        """Each reason with the operators that it left float, the most frequent first."""
        reasons: dict[str, Counter[str]] = {}
        for skip in self.skips:
            reasons.setdefault(skip.reason, Counter())[skip.op_type] += 1
        return sorted(reasons.items(), key=lambda item: -item[1].total())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know before using the result, worst first; it follows from the other fields."""
        if not self.quantized:
            return (_NOTHING_QUANTIZED, *self.notes)
        broken = tuple(f"the device's rule {shift} does not hold" for shift in self.violations)
        return (*broken, *find_warnings(self.verification, self.min_sqnr_db), *self.notes)
