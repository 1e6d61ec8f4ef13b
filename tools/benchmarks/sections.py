"""What is measured, one function a table."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks import isolate
from benchmarks.calibration import METHODS, TOOLS
from benchmarks.comparison import Comparison, defaults
from benchmarks.dynamic_variants import DYNAMIC_VARIANTS
from benchmarks.isolate import Failure
from benchmarks.settings import Asset, Settings
from benchmarks.tables import SKIPPED, Column, Row, Spread, Table
from benchmarks.variants import OURS
from benchmarks.weight_sections import weight_kernels, weight_streaming, weights

_SHORT, _LONG = 800, 3200


def models(settings: Settings) -> Iterator[Table]:
    """Accuracy, latency, time and memory on real models: a table a model, then all with default settings."""
    tables = []
    for asset in settings.assets:
        with tempfile.TemporaryDirectory(dir=settings.work) as folder:
            tables.append(Comparison(asset, settings, Path(folder)).table())
            yield replace(tables[-1], detail=True)
    yield defaults(tables)


def dynamic(settings: Settings) -> Iterator[Table]:
    """The same of dynamic quantization."""
    for asset in settings.assets:
        with tempfile.TemporaryDirectory(dir=settings.work) as folder:
            yield Comparison(asset, settings, Path(folder), DYNAMIC_VARIANTS, "dynamic").table()


def calibration(settings: Settings) -> Iterator[Table]:
    """Calibration time over plain runs of the float model."""
    rows: list[Row] = []
    for asset in settings.assets:
        with tempfile.TemporaryDirectory(dir=settings.work) as folder:
            feeds = Path(folder) / "feeds"
            spooled = isolate.run("spool", asset=asset.folder, count=settings.samples, folder=feeds)
            if asset.missing or isinstance(spooled, Failure):
                reason = asset.missing or getattr(spooled, "reason", "")
                rows.append({"model": asset.name, "note": f"{SKIPPED}{reason}"})
                continue
            rows += [_calibration_row(asset, tool, method, feeds, settings) for tool in TOOLS for method in METHODS]
    columns = (
        Column("model", "model"),
        Column("tool", "tool"),
        Column("method", "method"),
        Column("ratio", "time / plain runs", 2),
        Column("seconds", "seconds", 2),
        Column("note", "note"),
    )
    note = f"{settings.samples} samples in memory; plain: the float model in one session, on all cores, taking turns."
    yield Table("Calibration time", note, columns, tuple(rows), detail=True)


def _calibration_row(asset: Asset, tool: str, method: str, feeds: Path, settings: Settings) -> Row:
    row: Row = {"model": asset.name, "tool": tool, "method": method}
    runs = []
    for _ in range(settings.repeat):
        run = isolate.run(
            "calibrate", tool=tool, method=method, model=asset.model, feeds=feeds, samples=settings.samples
        )
        if isinstance(run, Failure):
            return row | {"note": f"fails: {run.reason}"}
        runs.append(run)
    ratios = Spread.of([run["seconds"] / run["plain"] for run in runs])
    return row | {"ratio": ratios, "seconds": Spread.of([run["seconds"] for run in runs])}


def scaling(settings: Settings) -> Iterator[Table]:
    """Time on a short and a long chain of Convs."""
    peer = "onnxruntime, u8s8 per channel, MinMax"
    rows = [
        _scaling_row(OURS, (_SHORT, _LONG), settings),
        _scaling_row(peer, (_SHORT, _LONG) if settings.full else (_SHORT,), settings),
    ]
    columns = (
        Column("tool", "tool"),
        Column(f"seconds_{_SHORT}", f"s, {_SHORT} Conv"),
        Column(f"seconds_{_LONG}", f"s, {_LONG} Conv"),
        Column(f"own_{_SHORT}", f"own s, {_SHORT} Conv"),
        Column(f"own_{_LONG}", f"own s, {_LONG} Conv"),
        Column("growth", "own, long / short", 2),
        Column("note", "note"),
    )
    note = "Own seconds leave out the time in which an ONNX Runtime session is made or runs. Two samples."
    yield Table("Graph size", note, columns, tuple(rows), detail=True)


def _scaling_row(variant: str, sizes: tuple[int, ...], settings: Settings) -> Row:
    row: Row = {"tool": variant}
    own = {}
    for nodes in sizes:
        runs = []
        for _ in range(settings.repeat):
            with tempfile.TemporaryDirectory(dir=settings.work) as folder:
                run = isolate.run("scale", variant=variant, nodes=nodes, folder=folder)
            if isinstance(run, Failure):
                return row | {"note": f"fails: {run.reason}"}
            runs.append(run)
        row[f"seconds_{nodes}"] = Spread.of([run["seconds"] for run in runs])
        row[f"own_{nodes}"] = own[nodes] = Spread.of([run["own_seconds"] for run in runs])
    if len(own) > 1:
        row["growth"] = own[_LONG].median / own[_SHORT].median
    return row


def startup(settings: Settings) -> Iterator[Table]:
    """Time to import and to print help."""
    commands = {
        "python -c pass": ["-c", "pass"],
        "import vqonnx": ["-c", "import vqonnx"],
        "vqonnx --help": ["-m", "vqonnx", "--help"],
        "import onnxruntime.quantization": ["-c", "import onnxruntime.quantization"],
    }
    rows = [_startup_row(name, command, max(5, settings.repeat)) for name, command in commands.items()]
    columns = (Column("command", "command"), Column("seconds", "seconds", 2), Column("note", "note"))
    yield Table("Start-up", "A fresh interpreter each time, files cached.", columns, tuple(rows), detail=True)


def _startup_row(name: str, arguments: list[str], repeat: int) -> Row:
    times = []
    for _ in range(repeat + 1):  # the first run fills the file cache
        start = time.perf_counter()
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
        times.append(time.perf_counter() - start)
        if done.returncode:
            return {"command": name, "note": f"fails: {done.stderr.strip().splitlines()[-1]}"}
    return {"command": name, "seconds": Spread.of(times[1:])}


SECTIONS: dict[str, Callable[[Settings], Iterator[Table]]] = {
    "models": models,
    "dynamic": dynamic,
    "calibration": calibration,
    "scaling": scaling,
    "startup": startup,
    "weights": weights,
    "weight-kernels": weight_kernels,
    "weight-streaming": weight_streaming,
}
