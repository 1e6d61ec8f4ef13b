"""Where commands write: standard output, and the files that the user names."""

from pathlib import Path

from rich.console import Console

from vqonnx.errors import OutputError

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
