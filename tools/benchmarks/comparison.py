"""All variants on one real model: accuracy, latency, time, memory."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import isolate
from benchmarks.isolate import Failure
from benchmarks.settings import Asset, Settings
from benchmarks.tables import SKIPPED, Column, Row, Spread, Table
from benchmarks.variants import FLOAT, OURS, PEER, VARIANTS, Variant

_FEW_SAMPLES = 8
_COLUMNS = (
    Column("tool", "tool"),
    Column("sqnr_db", "SQNR dB"),
    Column("top1_agreement", "agreement", 3),
    Column("task", "task"),
    Column("latency", "latency / float", 2),
    Column("milliseconds", "ms", 2),
    Column("seconds", "seconds"),
    Column("peak_mib", "peak MiB", 0),
    Column("mib_per_sample", "MiB / sample", 1),
    Column("megabytes", "MB", 1),
    Column("note", "note"),
)
_SHORT = ("tool", "task", "sqnr_db", "top1_agreement", "latency", "seconds", "peak_mib", "megabytes", "note")

# Figure of an eval.py -> how it reads in a table.
_TASKS: dict[str, Callable[[float], str]] = {
    "top1": lambda x: f"top-1 {x:.1%}",
    "acc": lambda x: f"accuracy {x:.2%}",
    "line_acc_nospace": lambda x: f"lines {x:.1%}",
    "cer_nospace": lambda x: f"CER {x:.2%}",
    "perplexity": lambda x: f"perplexity {x:.2f}",
}


def defaults(tables: Sequence[Table]) -> Table:
    """Float and each tool's default call on all models, out of the tables of the single ones."""
    rows = tuple(
        {**row, "model": table.title if row["tool"] == FLOAT else ""}
        for table in tables
        for row in table.rows
        if row["tool"] in (FLOAT, OURS, PEER)
    )
    columns = {column.key: column for column in _COLUMNS}
    note = "The default calls. Agreement: of the best class with the float model's, on images that did not calibrate."
    return Table("All models", note, (Column("model", "model"), *(columns[key] for key in _SHORT)), rows)


class Comparison:
    """One asset, every variant.

    Args:
        asset: The model with its data.
        settings: What the command line asked for.
        work: Folder for files.
        variants: What is compared.
        topic: Added to the title; variants with one calibrate on no samples.
    """

    def __init__(
        self,
        asset: Asset,
        settings: Settings,
        work: Path,
        variants: Mapping[str, Variant] = VARIANTS,
        topic: str = "",
    ) -> None:
        self._asset, self._settings, self._work = asset, settings, work
        self._variants, self._topic = variants, topic
        self._feeds = work / "feeds"

    def table(self) -> Table:
        """Rows for float and each variant; one with the reason if the asset cannot be measured."""
        samples = "No samples." if self._topic else f"{self._settings.samples} calibration samples."
        note = (
            f"{samples} Latency: one thread, all models in turns in one process, "
            "median and quartiles. Seconds: file to file, without imports. Peak: a fresh process for each run."
        )
        title = ", ".join(filter(None, (self._asset.name, self._topic)))
        return Table(title, note, _COLUMNS, tuple(self._rows()))

    def _rows(self) -> list[Row]:
        if self._asset.missing:
            return [{"tool": FLOAT, "note": f"{SKIPPED}{self._asset.missing}"}]
        spooled = isolate.run("spool", asset=self._asset.folder, count=self._settings.samples, folder=self._feeds)
        if isinstance(spooled, Failure):
            return [{"tool": FLOAT, "note": f"{SKIPPED}{spooled.reason}"}]
        rows: list[Row] = [{"tool": FLOAT, **self._accuracy(self._asset.model)}]
        rows += [self._variant(name) for name in self._variants]
        self._add_latency(rows)
        return rows

    def _output(self, variant: str) -> Path:
        return self._work / f"{list(self._variants).index(variant)}.onnx"

    def _variant(self, name: str) -> Row:
        runs = [self._quantize(name, self._settings.samples) for _ in range(self._settings.repeat)]
        failed = next((run for run in runs if isinstance(run, Failure)), None)
        if failed:
            return {"tool": name, "note": f"fails: {failed.reason}"}
        done = [run for run in runs if not isinstance(run, Failure)]
        row: Row = {
            "tool": name,
            "seconds": Spread.of([run["seconds"] for run in done]),
            "peak_mib": Spread.of([run["peak_mib"] for run in done]),
            "note": "; ".join(done[0].get("warnings", ())) or None,
        }
        row |= self._accuracy(self._output(name))
        if self._topic:
            return row
        few = self._quantize(name, _FEW_SAMPLES, suffix=".few")
        more = self._settings.samples - _FEW_SAMPLES
        if not isinstance(few, Failure) and more > 0:
            row["mib_per_sample"] = (min(run["peak_mib"] for run in done) - few["peak_mib"]) / more
        return row

    def _quantize(self, name: str, samples: int, suffix: str = "") -> dict[str, Any] | Failure:
        output = self._output(name)
        return isolate.run(
            "quantize",
            variant=name,
            model=self._asset.model,
            output=output.with_name(output.name + suffix),
            feeds=self._feeds,
            samples=samples,
            topic=self._topic,
        )

    def _accuracy(self, model: Path) -> Row:
        megabytes = sum(path.stat().st_size for path in model.parent.glob(f"{model.name}*")) / 1e6
        figures = isolate.run("evaluate", asset=self._asset.folder, model=model)
        if isinstance(figures, Failure):
            return {"megabytes": megabytes, "note": f"fails: {figures.reason}"}
        known = {key: figures.get(key) for key in ("sqnr_db", "top1_agreement")}
        if model == self._asset.model:
            known = {}
        task = ", ".join(text(figures[key]) for key, text in _TASKS.items() if key in figures)
        return {**known, "task": task, "megabytes": megabytes}

    def _add_latency(self, rows: list[Row]) -> None:
        paths = {FLOAT: self._asset.model} | {name: self._output(name) for name in self._variants}
        working = [str(row["tool"]) for row in rows if "task" in row]
        measured = isolate.run(
            "latency",
            models={name: paths[name] for name in working},
            feeds=self._feeds,
            rounds=self._settings.rounds,
        )
        if isinstance(measured, Failure):
            rows[0]["note"] = f"latency: {measured.reason}"
            return
        times = measured["milliseconds"]
        for row in rows:
            if own := times.get(row["tool"]):
                row["milliseconds"] = Spread.quartiles(own).median
                ratios = [mine / base for mine, base in zip(own, times[FLOAT], strict=True)]
                row["latency"] = Spread.quartiles(ratios) if row["tool"] != FLOAT else None
