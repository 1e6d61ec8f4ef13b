"""Where commands write: standard output, and the files that the user names."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from vqonnx.errors import OutputError

if TYPE_CHECKING:
    from vqonnx.report.model import Report

_WIDTH_OF_FILES = 120


def stdout() -> Console:
    """Standard output: as wide as the terminal, or wide enough that tables in files and pipes seldom wrap."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH_OF_FILES)


def write_text(path: Path, text: str) -> None:
    """Write a file that the user asked for.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(
            f"cannot write {str(path)!r}: {error.strerror}. Check the folder and its permissions.", path=str(path)
        ) from error


def deliver(report: "Report", json: Path | None, *, quiet: bool) -> None:
    """Write a report to the JSON file that the user named, if any, and print it unless that is not wanted.

    Raises:
        OutputError: The file cannot be written.
    """
    from vqonnx.report.json import to_json
    from vqonnx.report.text import print_report

    if json is not None:
        write_text(json, to_json(report))
    if not quiet:
        print_report(report, stdout())
