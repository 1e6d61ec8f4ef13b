"""The rules that turn figures into warnings; each rule is one function from figures to sentences."""

import math
from collections import Counter
from collections.abc import Callable, Iterator

from vqonnx.report.figures import Level, Outcome, OutputFigures, Verification

_FAIR_SPEED = 0.97  # a ratio within the noise of an idle machine counts as equal
_FAIR_EQUAL = 0.9
_REASONS_SHOWN = 3


def find_warnings(verification: Verification, min_sqnr_db: float) -> tuple[str, ...]:
    """All warnings about a result, worst first; empty where nothing is wrong.

    Args:
        verification: What the result showed.
        min_sqnr_db: Float outputs below this SQNR, in dB, are warned about.
    """
    low = tuple(_low_output(output, min_sqnr_db) for output in verification.outputs)
    return (*filter(None, low), *(text for rule in _RULES for text in rule(verification)))


def _low_output(output: OutputFigures, least_db: float) -> str:
    name = f"output {output.name!r}"
    if output.broken:
        return f"{name}: {output.broken} finite elements became NaN or infinite"
    if output.equal is not None and output.equal < _FAIR_EQUAL:
        return f"{name}: only {output.equal:.0%} of its elements equal the float model's"
    if output.sqnr_db is None or output.sqnr_db >= least_db:
        return ""
    if math.isinf(output.sqnr_db):
        return f"{name} holds noise where the float model has nothing but zeros"
    return (
        f"{name} has an SQNR of {output.sqnr_db:.1f} dB, below {least_db:g} dB: "
        "try another calibration method, more samples, or exclude nodes"
    )


def _other_shapes(verification: Verification) -> Iterator[str]:
    for output in verification.outputs:
        if output.other_shapes:
            share = f"{output.other_shapes} of {verification.samples} samples"
            yield f"output {output.name!r} had another shape in {share}"


def _slower(verification: Verification) -> Iterator[str]:
    latency = verification.latency
    if latency and latency.speedup < _FAIR_SPEED:
        yield (
            f"slower than float: {latency.quantized_seconds * 1e3:.3g} ms against "
            f"{latency.float_seconds * 1e3:.3g} ms a run on this machine"
        )


def _not_smaller(verification: Verification) -> Iterator[str]:
    sizes = verification.sizes
    if sizes and sizes.quantized_bytes >= sizes.float_bytes:
        yield f"not smaller than float: {sizes.quantized_bytes:,} bytes against {sizes.float_bytes:,}"


def _fell_back(verification: Verification) -> Iterator[str]:
    fallen = verification.of_outcome(Outcome.FLOAT)
    reasons = Counter(f"{kernel.op_type}: {kernel.reason}" for kernel in fallen)
    for reason, count in reasons.most_common(_REASONS_SHOWN):
        nodes = "node still runs" if count == 1 else "nodes still run"
        yield f"{count} planned {nodes} in float ({reason})"
    if len(reasons) > _REASONS_SHOWN:
        yield f"{len(reasons) - _REASONS_SHOWN} more reasons for float kernels are in the JSON report"


def _unverified(verification: Verification) -> Iterator[str]:
    if verification.level not in (Level.COMPARED, Level.LAYERS):
        yield f"the result was not compared with the float model: {verification.level.value}"


def _notes(verification: Verification) -> Iterator[str]:
    yield from verification.notes


_RULES: tuple[Callable[[Verification], Iterator[str]], ...] = (
    _other_shapes,
    _slower,
    _not_smaller,
    _fell_back,
    _unverified,
    _notes,
)
