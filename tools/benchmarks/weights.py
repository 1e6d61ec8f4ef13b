"""Weight-only quantization of one language model: perplexity, time, memory and size of every variant."""

from pathlib import Path
from typing import Any

from benchmarks import isolate
from benchmarks.isolate import Failure
from benchmarks.settings import Asset, Settings
from benchmarks.tables import SKIPPED, Column, Row, Spread, Table
from benchmarks.variants import FLOAT
from benchmarks.weight_variants import SAMPLES, WEIGHT_VARIANTS

_TASK = "perplexity"

MEMORY_COLUMNS = (Column("peak_mib", "peak MiB", 0), Column("anonymous_mib", "peak anonymous MiB", 0))
"""For the results of jobs that measure both."""


class WeightComparison:
    """One asset, every weight-only variant; the runs of the variants take turns."""

    def __init__(self, asset: Asset, settings: Settings, work: Path) -> None:
        self._asset, self._settings, self._work = asset, settings, work
        self._feeds = work / "feeds"
        self._runs: dict[str, list[dict[str, Any]]] = {name: [] for name in WEIGHT_VARIANTS}
        self._reasons: dict[str, str] = {}

    def table(self) -> Table | None:
        """Rows for float and each variant; None if the asset is no language model."""
        columns = (
            Column("tool", "tool"),
            Column("perplexity", "perplexity", 2),
            Column("seconds", "seconds"),
            Column("verify", "of these, verifying"),
            *MEMORY_COLUMNS,
            Column("megabytes", "MB", 1),
            Column("note", "note"),
        )
        note = (
            f"4 bits; the last MatMul stays float unless the name says otherwise; {SAMPLES} samples. Seconds from file "
            "to file, without imports, kernels compiled; vqonnx also runs every layer that it wrote. Anonymous memory: "
            "without maps of files, which the system takes back when it needs them."
        )
        floats = self._float_row()
        return None if floats is None else Table(f"{self._asset.name}, weights", note, columns, (floats, *self._rows()))

    def _float_row(self) -> Row | None:
        """None if what the asset measures is no perplexity."""
        if self._asset.missing:
            return {"tool": FLOAT, "note": f"{SKIPPED}{self._asset.missing}"}
        figures = isolate.run("evaluate", asset=self._asset.folder, model=self._asset.model)
        if isinstance(figures, Failure):
            return {"tool": FLOAT, "note": f"{SKIPPED}{figures.reason}"}
        if _TASK not in figures:
            return None
        return {"tool": FLOAT, _TASK: figures[_TASK]}

    def _rows(self) -> list[Row]:
        spooled = isolate.run("spool", asset=self._asset.folder, count=SAMPLES, folder=self._feeds)
        head = isolate.run("last_product", model=self._asset.model)
        for prepared in (spooled, head):
            if isinstance(prepared, Failure):
                return [{"tool": name, "note": f"{SKIPPED}{prepared.reason}"} for name in WEIGHT_VARIANTS]
        assert not isinstance(head, Failure)
        for _ in range(self._settings.repeat):
            for name in WEIGHT_VARIANTS:
                self._run(name, head["node"])
        return [self._row(name) for name in WEIGHT_VARIANTS]

    def _run(self, name: str, head: str) -> None:
        if name in self._reasons:
            return
        output = self._output(name)
        output.parent.mkdir(exist_ok=True)
        run = isolate.run(
            "pack",
            variant=name,
            model=self._asset.model,
            output=output,
            feeds=self._feeds,
            samples=SAMPLES,
            exclude=[head],
        )
        if isinstance(run, Failure):
            self._reasons[name] = failed(run)
        else:
            self._runs[name].append(run)

    def _output(self, name: str) -> Path:
        """In a folder of its own, since tools call their data files as they like."""
        return self._work / str(list(WEIGHT_VARIANTS).index(name)) / "model.onnx"

    def _row(self, name: str) -> Row:
        if name in self._reasons:
            return {"tool": name, "note": self._reasons[name]}
        runs, output = self._runs[name], self._output(name)
        figures = isolate.run("evaluate", asset=self._asset.folder, model=output)
        told: Row = {"note": failed(figures)} if isinstance(figures, Failure) else {_TASK: figures[_TASK]}
        return {
            "tool": name,
            **told,
            "seconds": Spread.of([run["seconds"] for run in runs]),
            "verify": Spread.of([run["stages"]["verify"] for run in runs]) if "stages" in runs[0] else None,
            **memory_cells(runs),
            "megabytes": sum(path.stat().st_size for path in output.parent.iterdir()) / 1e6,
        }


def failed(run: Failure) -> str:
    """A note on a run that gave nothing: of a tool that is not installed, it was skipped."""
    return f"{SKIPPED if run.reason.startswith('ModuleNotFoundError') else 'fails: '}{run.reason}"


def memory_cells(runs: list[dict[str, Any]]) -> Row:
    """The cells of ``MEMORY_COLUMNS``."""
    cells: Row = {}
    for column in MEMORY_COLUMNS:
        known = [run[column.key] for run in runs if run.get(column.key) is not None]
        cells[column.key] = Spread.of(known) if known else None
    return cells
