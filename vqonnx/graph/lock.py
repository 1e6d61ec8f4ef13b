"""A folder that one process at a time works in."""

import sys
from pathlib import Path
from typing import BinaryIO

from vqonnx.errors import OutputError
from vqonnx.graph.atomic import as_output_error


def hold(path: Path) -> BinaryIO:
    """Lock the file ``path``, which is made if it is missing, until the returned file is closed or the process ends.

    Raises:
        OutputError: Another process holds it, or the file cannot be written.
    """
    with as_output_error(path):
        file = path.open("ab")
    try:
        _lock(file)
    except OSError as error:
        file.close()
        raise OutputError(
            f"cannot work in {str(path.parent)!r}: another run does. Wait for it, end it, or pick another output path.",
            path=str(path.parent),
        ) from error
    return file


if sys.platform == "win32":
    import msvcrt

    def _lock(file: BinaryIO) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
