"""The report: JSON round trip, warnings rule by rule, and text that stays short."""

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from vqonnx.core.plan import Skip
from vqonnx.errors import OptionError
from vqonnx.report.figures import (
    Latency,
    Level,
    NodeKernel,
    Outcome,
    OutputFigures,
    Sizes,
    Verification,
)
from vqonnx.report.json import from_json, to_json
from vqonnx.report.model import BiasCorrection, GuardAction, Report
from vqonnx.report.text import print_report
from vqonnx.report.weights import WeightFigures

GOOD = Report(
    version="1.0",
    target="cpu-x86-vnni",
    quantized={"Conv": 52, "Add": 10, "MatMul": 1},
    verification=Verification(
        level=Level.COMPARED,
        samples=8,
        outputs=(
            OutputFigures(name="logits", elements=80, sqnr_db=31.4, cosine=0.9996, max_abs_error=0.2, mean_error=0.01),
        ),
        kernels=(NodeKernel("c", "Conv", Outcome.INTEGER, "QLinearConv"), NodeKernel("r", "Relu", Outcome.MERGED)),
        sizes=Sizes(float_bytes=14_000_000, quantized_bytes=3_600_000),
        latency=Latency(float_seconds=0.02, quantized_seconds=0.008, threads=1, runs=30),
    ),
    seconds={"observe": 3.21, "solve": 0.5},
    samples=56,
)


def seen(**changes: object) -> Report:
    """The good report with other findings."""
    return replace(GOOD, verification=replace(GOOD.verification, **changes))


def text(report: Report, width: int = 100) -> str:
    stream = io.StringIO()
    print_report(report, Console(file=stream, width=width, color_system=None))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ("{", "Expecting"),
        ("[]", "its schema is not 1"),
        ('{"schema": 99}', "its schema is not 1"),
        ('{"schema": 1}', "'version'"),
        (to_json(GOOD).replace('"samples": 56', '"samples": "many"'), "expected int, got 'many'"),
        (to_json(GOOD).replace('"target": "cpu-x86-vnni"', '"target": null'), "expected str, got None"),
        (to_json(GOOD).replace('"COMPARED"', '"BLESSED"'), "'BLESSED'"),
        (to_json(GOOD).replace("31.4", '"loud"'), "could not convert string to float"),
    ],
)
def test_other_files_are_refused(content, fact):
    with pytest.raises(OptionError, match=r"not a report of vqonnx: .*vqonnx quantize --json FILE") as caught:
        from_json(content)
    assert fact in str(caught.value)


def test_a_good_result_has_no_warnings():
    assert GOOD.warnings == ()
    assert GOOD.verified


def figures(**changes: object) -> tuple[OutputFigures, ...]:
    return (replace(GOOD.verification.outputs[0], **changes),)


FELL = tuple(NodeKernel(f"n{i}", "Conv", Outcome.FLOAT, "Conv", f"reason {i % 5}") for i in range(9))


@pytest.mark.parametrize(
    ("report", "warning"),
    [
        (replace(GOOD, quantized={}), "nothing was quantized, the result computes what the model did"),
        (seen(outputs=figures(sqnr_db=4.25)), "output 'logits' has an SQNR of 4.2 dB, below 10 dB"),
        (seen(outputs=figures(sqnr_db=-math.inf)), "'logits' holds noise where the float model has nothing but zeros"),
        (seen(outputs=figures(sqnr_db=-math.inf, broken=3)), "'logits': 3 finite elements became NaN or infinite"),
        (seen(outputs=figures(sqnr_db=None, equal=0.5)), "'logits': only 50% of its elements equal"),
        (seen(outputs=figures(other_shapes=2)), "'logits' had another shape in 2 of 8 samples"),
        (
            seen(latency=Latency(float_seconds=0.01, quantized_seconds=0.0125, threads=1, runs=3)),
            "slower than float: 12.5 ms against 10 ms a run",
        ),
        (
            seen(sizes=Sizes(float_bytes=1000, quantized_bytes=1200)),
            "not smaller than float: 1,200 bytes against 1,000",
        ),
        (seen(kernels=FELL[:1]), "1 planned node still runs in float (Conv: reason 0)"),
        (seen(kernels=FELL), "2 planned nodes still run in float (Conv: reason 0)"),
        (seen(kernels=FELL), "2 more reasons for float kernels are in the JSON report"),
        (seen(level=Level.LOADED), "not compared with the float model: loads in ONNX Runtime"),
        (seen(notes=("remark",)), "remark"),
        (replace(GOOD, notes=("remark",)), "remark"),
    ],
)
def test_what_is_wrong_is_warned_about(report, warning):
    assert any(warning in text for text in report.warnings), report.warnings


def test_ratios_of_nothing_are_not_numbers():
    assert math.isnan(Sizes(float_bytes=0, quantized_bytes=1).ratio)
    assert math.isnan(Latency(float_seconds=1, quantized_seconds=0, threads=1, runs=1).speedup)


def test_the_worst_output_decides():
    outputs = (*figures(sqnr_db=20.0), *figures(sqnr_db=None), *figures(sqnr_db=12.0))
    assert seen(outputs=outputs).verification.worst_db == 12.0
    assert Verification().worst_db is None


def test_text_tells_the_result_in_a_few_lines():
    report = replace(
        GOOD,
        skips=tuple(Skip(f"n{i}", "Tanh", "no integer kernel") for i in range(40)),
        guard=(GuardAction(subject="conv1", action="kept float", reason="worst loss", before_db=9.0, after_db=31.0),),
        bias_correction=BiasCorrection(method="fast", kept=True, before_db=30.0, after_db=31.4, corrected=52),
    )
    lines = text(report).splitlines()
    assert len(lines) <= 25
    written = " ".join(" ".join(lines).split())
    for part in (
        "63 of 103 nodes: Conv 52, Add 10, MatMul 1",
        "1 integer, 1 merged into neighbours",
        "14 MB -> 3.6 MB (26%)",
        "20 ms -> 8 ms, 2.50 x as fast (1 thread, median of 30 runs)",
        "logits 31.4 0.99960 0.2 0.01 -",
        "40 Tanh 40: no integer kernel",
        "guard: conv1: kept float, worst loss (9.0 -> 31.0 dB)",
        "correction fast: kept, 52 biases (30.0 -> 31.4 dB)",
        "observe 3.2, solve 0.5",
    ):
        assert part in written


def test_long_lists_are_cut_and_the_rest_is_counted():
    report = replace(
        seen(outputs=tuple(figures(name=f"o{i}", sqnr_db=20.0 + i)[0] for i in range(12))),
        skips=tuple(Skip(f"n{i}", "Op", f"reason {i}") for i in range(9)),
        guard=tuple(GuardAction(subject=f"n{i}", action="kept float", reason="loss") for i in range(8)),
    )
    written = text(report)
    for part in ("the worst 8 of 12", "3 for 3 more reasons (see the JSON report)", "guard: 2 more actions"):
        assert part in written
    assert "o0 " in written
    assert "o11" not in written


def test_names_with_brackets_are_printed_as_they_are():
    assert "[red]x[/red]" in text(seen(outputs=figures(name="[red]x[/red]")))


def test_packed_weights_are_summed_up_and_the_worst_are_named() -> None:
    weights = tuple(
        WeightFigures(
            weight=f"w{k}", nodes=(f"n{k}",), form="matmul_nbits", bits=4, block_size=32, symmetric=False,
            asked="gptq", algorithm="rtn" if k == 0 else "gptq", data=True, sqnr_db=20.0 + k, rtn_db=18.0,
        )
        for k in range(7)
    )  # fmt: skip
    shown = text(Report(version="1", target="weights", weights=weights), width=140)
    assert "7 packed: gptq 6, rtn 1; SQNR of the outputs on held-back samples: worst 20.0 dB, median 23.0 dB" in shown
    assert all(f"w{k} " in shown for k in range(5))
    assert "w5 " not in shown
