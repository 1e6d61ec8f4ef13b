"""Measures vqonnx beside onnxruntime.quantization in one run and prints markdown tables.

    python tools/bench.py --assets DIR [--only TEXT] [--section NAME] [--repeat 3] [--json FILE] [--readme]

DIR holds a folder a model, with model.onnx and eval.py, which has evaluate(path[, float_model]) -> figures and
calibration_samples(n) -> feeds. What has no data, or fails, gets a row with the reason. Each measurement runs in a
process of its own.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.sections import SECTIONS
from benchmarks.settings import Settings, find_assets
from benchmarks.tables import Table

README = Path(__file__).resolve().parent.parent / "README.md"
_CPU_INFO = Path("/proc/cpuinfo")


def main() -> int:
    """Measure what the command line asks for."""
    arguments = _parse()
    with tempfile.TemporaryDirectory() as work:
        settings = Settings(
            assets=find_assets(arguments.assets, tuple(arguments.only)),
            repeat=arguments.repeat,
            samples=arguments.samples,
            rounds=arguments.rounds,
            full=arguments.full,
            work=Path(work),
        )
        measured: dict[str, list[Table]] = {}
        print(_machine(), end="\n\n")
        for name in arguments.section or SECTIONS:
            measured[name] = []
            for table in SECTIONS[name](settings):
                print(table.markdown(), end="\n\n", flush=True)
                measured[name].append(table)
    if arguments.json:
        tables = [table.json() for section in measured.values() for table in section]
        arguments.json.write_text(json.dumps(tables, indent=2) + "\n")
    if arguments.readme:
        write_readme(README, measured)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, help="folder of models with data")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="models whose name holds it")
    parser.add_argument("--section", action="append", choices=list(SECTIONS), help="what to measure; all by default")
    parser.add_argument("--repeat", type=int, default=3, help="times that each quantization runs")
    parser.add_argument("--samples", type=int, default=64, help="calibration samples")
    parser.add_argument("--rounds", type=int, default=40, help="rounds of the latency measurement")
    parser.add_argument("--full", action="store_true", help="also the peer on 3200 nodes, and 8 GiB of weights")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--readme", action="store_true", help="put the tables of these sections into README.md")
    return parser.parse_args()


def _machine() -> str:
    names = ("vqonnx", "onnxruntime", "onnx", "numpy")
    versions = ", ".join(f"{name} {_version(name)}" for name in names)
    flags = _CPU_INFO.read_text() if _CPU_INFO.exists() else ""
    vnni = ", VNNI" if "vnni" in flags else ""
    return f"{platform.machine()}{vnni}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}."


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "from source"


def write_readme(path: Path, measured: Mapping[str, Sequence[Table]]) -> None:
    """Replace what stands between the markers of each measured section in README; the others stay.

    Details are folded away, behind the other tables; rows of what was skipped are left out, and tables of nothing else.

    Raises:
        ValueError: README has no markers for a section.
    """
    text = path.read_text(encoding="utf-8")
    for section, tables in measured.items():
        begin, end = f"<!-- bench:{section} -->", f"<!-- end of bench:{section} -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"{path} has no lines {begin} and {end}")
        filled = [table for table in (table.measured() for table in tables) if table.rows]
        shown = sorted(filled, key=lambda table: table.detail)
        parts = [table.folded() if table.detail else table.markdown() for table in shown]
        body = "\n\n".join([_machine(), *parts])
        text = f"{before}{begin}\n{body}\n{end}{after}"
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
