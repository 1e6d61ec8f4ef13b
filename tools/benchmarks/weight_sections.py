"""What is measured of weight-only quantization, one function a table."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import isolate
from benchmarks.isolate import Failure
from benchmarks.settings import Settings
from benchmarks.tables import Column, Row, Spread, Table
from benchmarks.weight_kernels import KERNELS
from benchmarks.weight_streaming import COPY, STREAM_VARIANTS
from benchmarks.weights import MEMORY_COLUMNS, WeightComparison, failed, memory_cells

_GIB = 1 << 30
_SIZE, _FULL_SIZE = 2 * _GIB, 33 * _GIB // 4


def weights(settings: Settings) -> Iterator[Table]:
    """Perplexity, time, memory and size on language models, one table a model."""
    for asset in settings.assets:
        with tempfile.TemporaryDirectory(dir=settings.work) as folder:
            table = WeightComparison(asset, settings, Path(folder)).table()
            if table is not None:
                yield table


def weight_kernels(settings: Settings) -> Iterator[Table]:
    """Speed of the solvers without files."""
    columns = (
        Column("kernel", "kernel"),
        Column("ours", "vqonnx, G weights/s", 3),
        Column("peer", "onnxruntime, G weights/s", 3),
        Column("ratio", "times as fast"),
        Column("error", "squared error / onnxruntime's", 3),
        Column("note", "note"),
    )
    note = "4 bits, block 32, packing included; both tools in one process, in turns: medians of 5 rounds."
    yield Table("Weight kernels", note, columns, tuple(_kernel_row(kernel, settings.repeat) for kernel in KERNELS))


def _kernel_row(kernel: str, repeat: int) -> Row:
    runs = [isolate.run("weight_kernel", kernel=kernel) for _ in range(repeat)]
    done = [run for run in runs if not isinstance(run, Failure)]
    failure = next((run for run in runs if isinstance(run, Failure)), None)
    if failure is not None:
        return {"kernel": kernel, "note": failed(failure)}
    return {
        "kernel": kernel,
        "ours": Spread.of([run["weights"] / run["ours"] / 1e9 for run in done]),
        "peer": Spread.of([run["weights"] / run["peer"] / 1e9 for run in done]),
        "ratio": Spread.of([run["peer"] / run["ours"] for run in done]),
        "error": done[0]["error"],
    }


def weight_streaming(settings: Settings) -> Iterator[Table]:
    """Time and memory on a large model of random weights, against a copy of its files."""
    size = _FULL_SIZE if settings.full else _SIZE
    with tempfile.TemporaryDirectory(dir=settings.work) as folder:
        place = Path(folder)
        made = isolate.run("large_model", folder=place / "float", size=size)
        if isinstance(made, Failure):
            rows: list[Row] = [{"tool": COPY, "note": failed(made)}]
        else:
            rows = _streaming_rows(Path(made["path"]), place / "out", settings.repeat)
    columns = (
        Column("tool", "tool"),
        Column("seconds", "seconds"),
        Column("ratio", "time / copy", 2),
        *MEMORY_COLUMNS,
        Column("megabytes", "MB", 0),
        Column("note", "note"),
    )
    note = f"{size / _GIB:.3g} GiB of weights in external data, the largest of 250 MiB; the runs take turns."
    yield Table("Weight streaming", note, columns, tuple(rows))


def _streaming_rows(model: Path, output: Path, repeat: int) -> list[Row]:
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in STREAM_VARIANTS}
    rows: dict[str, Row] = {name: {"tool": name} for name in STREAM_VARIANTS}
    for _ in range(repeat):
        for name in STREAM_VARIANTS:
            if "note" in rows[name]:
                continue
            with tempfile.TemporaryDirectory(dir=output.parent) as folder:
                run = isolate.run("stream", variant=name, model=model, output=Path(folder) / "model.onnx")
                if isinstance(run, Failure):
                    rows[name]["note"] = failed(run)
                    continue
                rows[name]["megabytes"] = sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e6
            runs[name].append(run)
    for name, row in rows.items():
        if runs[name] and "note" not in row:
            times = [[run["seconds"] for run in runs[one]] for one in (name, COPY)]
            row["seconds"] = Spread.of(times[0])
            row["ratio"] = Spread.of([mine / copy for mine, copy in zip(*times, strict=True)])
            row |= memory_cells(runs[name])
    return list(rows.values())
