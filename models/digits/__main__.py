"""Accuracy of a model on the bundled digits, and its calibration samples as files."""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from models.digits import calibration_samples, evaluate


def main() -> int:
    """Run one of the two commands; ``compare`` fails when accuracy drops by more than the limit."""
    parser = argparse.ArgumentParser(prog="python -m models.digits", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    samples = commands.add_parser("samples", help="write calibration samples, one .npz file each")
    samples.add_argument("folder", type=Path)
    samples.add_argument("--count", type=int, default=64)
    compare = commands.add_parser("compare", help="print the accuracy of two models")
    compare.add_argument("before", type=Path)
    compare.add_argument("after", type=Path)
    compare.add_argument("--limit", type=float, default=0.1, help="largest drop allowed, in points")
    arguments = parser.parse_args()
    if arguments.command == "samples":
        _write_samples(arguments.folder, arguments.count)
        return 0
    return _compare(arguments.before, arguments.after, arguments.limit)


def _write_samples(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, feed in enumerate(calibration_samples(count)):
        arrays: dict[str, Any] = feed
        np.savez(folder / f"{i:04d}.npz", **arrays)


def _compare(before: Path, after: Path, limit: float) -> int:
    figures = {path: evaluate(path) for path in (before, after)}
    for title, path in (("before", before), ("after", after)):
        size = path.stat().st_size / 1e6
        sys.stdout.write(f"accuracy {title:<7} {figures[path]:.2f} %   {size:.2f} MB   {path.name}\n")
    drop = figures[before] - figures[after]
    if drop > limit:
        sys.stderr.write(f"accuracy dropped by {drop:.2f} points; at most {limit} were allowed\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
