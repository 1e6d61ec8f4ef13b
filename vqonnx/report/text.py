"""The report as text for a terminal: about 25 lines for an ordinary model."""

import math
from collections import Counter
from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from vqonnx.report.figures import Outcome, OutputFigures, Verification
from vqonnx.report.model import Report
from vqonnx.report.weights import WeightFigures, kept_algorithms

_OUTPUTS_SHOWN = 8
_REASONS_SHOWN = 6
_WEIGHTS_SHOWN = 5


def print_report(report: Report, console: Console) -> None:
    """Write the report on ``console``: result first, then why, warnings last, where the eye rests."""
    console.print(Group(*_blocks(report)), soft_wrap=False)


def _blocks(report: Report) -> Iterator[RenderableType]:
    yield _summary(report)
    if report.verification.outputs:
        yield output_table(report.verification.outputs)
    if report.weights:
        yield _worst_weights(report.weights)
    if report.skips:
        yield Text("left in float", style="bold")
        yield from _skips(report)
    yield from _guard(report)
    for warning in report.warnings:
        yield Text.assemble(("warning: ", "bold yellow"), warning)


def _summary(report: Report) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column()
    for title, text in _lines(report):
        if text:
            grid.add_row(title, Text(text))
    return grid


def _lines(report: Report) -> Iterator[tuple[str, str]]:
    verification = report.verification
    yield f"vqonnx {report.version}", f"target {report.target}"
    total = sum(report.quantized.values())
    yield "quantized", f"{total} of {total + len(report.skips)} nodes: {counted(Counter(report.quantized))}"
    yield "kernels", _kernels(verification)
    yield "weights", _weights(report.weights)
    yield "size", _size(verification)
    yield "speed", _speed(verification)
    yield "verified", f"{verification.level.value}; {report.samples} samples used, {verification.samples} held back"
    yield "bias", _bias(report)
    yield "positions", _positions(report)
    yield "seconds", ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in report.seconds.items())


def counted(names: Counter[str]) -> str:
    """``"Conv 5, MatMul 2"``, the most frequent first; names of equal count by name."""
    ordered = sorted(names.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count}" for name, count in ordered)


def _kernels(verification: Verification) -> str:
    if verification.kernels is None:
        return ""
    parts = ((outcome, len(verification.of_outcome(outcome))) for outcome in Outcome)
    names = {Outcome.INTEGER: "integer", Outcome.FLOAT: "float", Outcome.MERGED: "merged into neighbours"}
    return ", ".join(f"{count} {names[outcome]}" for outcome, count in parts if count)


def _weights(weights: tuple[WeightFigures, ...]) -> str:
    """``"211 packed: gptq 208, rtn 3; the product's error on held-back samples, worst 18.2 dB, median 24.0 dB"``."""
    if not weights:
        return ""
    kept = f"{len(weights)} packed: {counted(kept_algorithms(weights))}"
    known = sorted(figures.sqnr_db for figures in weights if figures.sqnr_db is not None)
    if not known:
        return kept
    of = "outputs on held-back samples" if any(figures.data for figures in weights) else "weights"
    return f"{kept}; SQNR of the {of}: worst {decibels(known[0])} dB, median {decibels(known[len(known) // 2])} dB"


def _worst_weights(weights: tuple[WeightFigures, ...]) -> Table:
    known = sorted((w for w in weights if w.sqnr_db is not None), key=lambda w: w.sqnr_db or 0.0)
    table = Table(box=None, pad_edge=False)
    table.add_column("worst weights", overflow="fold")
    for title in ("form", "algorithm", "SQNR dB", "rtn dB"):
        table.add_column(title, justify="right")
    for figures in known[:_WEIGHTS_SHOWN]:
        form = f"{figures.bits} bits, {'channel' if figures.block_size < 0 else f'block {figures.block_size}'}"
        levels = ("-" if db is None else decibels(db) for db in (figures.sqnr_db, figures.rtn_db))
        table.add_row(Text(figures.weight), form, figures.algorithm, *levels)
    return table


def _size(verification: Verification) -> str:
    sizes = verification.sizes
    if sizes is None:
        return ""
    return f"{_bytes(sizes.float_bytes)} -> {_bytes(sizes.quantized_bytes)} ({sizes.ratio:.0%})"


def _bytes(count: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count} B"


def _speed(verification: Verification) -> str:
    latency = verification.latency
    if latency is None:
        return ""
    threads = f"{latency.threads} thread{'s' * (latency.threads > 1)}" if latency.threads else "default threads"
    before, after = (f"{seconds * 1e3:.3g} ms" for seconds in (latency.float_seconds, latency.quantized_seconds))
    return f"{before} -> {after}, {latency.speedup:.2f} x as fast ({threads}, median of {latency.runs} runs)"


def _positions(report: Report) -> str:
    """``"201 tensors at positions -1..8; 240 rules hold, the tightest with a slack of 0"``."""
    if not report.positions:
        return ""
    found = report.positions.values()
    text = f"{len(found)} tensors at positions {min(found)}..{max(found)}"
    if not report.shifts:
        return text
    broken, tightest = len(report.violations), min(shift.slack for shift in report.shifts)
    return f"{text}; {len(report.shifts) - broken} of {len(report.shifts)} rules hold, least slack {tightest}"


def _bias(report: Report) -> str:
    correction = report.bias_correction
    if correction is None:
        return ""
    kept = f"kept, {correction.corrected} biases" if correction.kept else "tried and not kept"
    return f"correction {correction.method}: {kept}{_change(correction.before_db, correction.after_db)}"


def _change(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f" ({decibels(before)} -> {decibels(after)} dB)"


def decibels(value: float) -> str:
    """``"31.4"``; ``"exact"`` where nothing differs."""
    return "exact" if value == math.inf else f"{value:.1f}"


def output_table(outputs: tuple[OutputFigures, ...], *, limit: int = _OUTPUTS_SHOWN) -> Table:
    """Figures of outputs or tensors, one a row; only the ``limit`` worst where there are more."""
    shown = outputs if len(outputs) <= limit else tuple(sorted(outputs, key=_goodness)[:limit])
    caption = None if len(shown) == len(outputs) else f"the worst {limit} of {len(outputs)}"
    table = Table(box=None, pad_edge=False, caption=caption, caption_justify="left")
    table.add_column("output", overflow="fold")
    for title in ("SQNR dB", "cosine", "max error", "mean error", "equal"):
        table.add_column(title, justify="right")
    for output in shown:
        table.add_row(Text(output.name), *_cells(output))
    return table


def _goodness(output: OutputFigures) -> float:
    return output.sqnr_db if output.sqnr_db is not None else 100 * (output.equal or 0)


def _cells(output: OutputFigures) -> tuple[str, ...]:
    return (
        "-" if output.sqnr_db is None else decibels(output.sqnr_db),
        "-" if output.cosine is None else f"{output.cosine:.5f}",
        "-" if output.max_abs_error is None else f"{output.max_abs_error:.3g}",
        "-" if output.mean_error is None else f"{output.mean_error:.2g}",
        "-" if output.equal is None else f"{output.equal:.1%}",
    )


def _skips(report: Report) -> Iterator[Text]:
    reasons = report.skip_reasons
    for reason, operators in reasons[:_REASONS_SHOWN]:
        yield Text(f"  {operators.total():4} {counted(operators)}: {reason}")
    if len(reasons) > _REASONS_SHOWN:
        rest = sum(operators.total() for _, operators in reasons[_REASONS_SHOWN:])
        yield Text(f"  {rest:4} for {len(reasons) - _REASONS_SHOWN} more reasons (see the JSON report)")


def _guard(report: Report) -> Iterator[Text]:
    for action in report.guard[:_REASONS_SHOWN]:
        change = _change(action.before_db, action.after_db)
        yield Text.assemble(("guard: ", "bold"), f"{action.subject}: {action.action}, {action.reason}{change}")
    if len(report.guard) > _REASONS_SHOWN:
        yield Text(f"guard: {len(report.guard) - _REASONS_SHOWN} more actions (see the JSON report)")
