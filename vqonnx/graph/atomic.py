"""What can be told of an output before it is written, and what of the system's errors."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from vqonnx.errors import OutputError


def check_writable(path: str | os.PathLike[str], size: int = 0) -> None:
    """Raise unless a file of about ``size`` bytes can be written at ``path``; nothing is left behind.

    Raises:
        OutputError: The folder is missing, is not a folder, cannot be written or is too full, or ``path`` is
            a folder itself.
    """
    target = Path(path)
    folder = target.parent
    if target.is_dir():
        raise _refused(target, "it is a folder", "Give a file name in it")
    if not folder.exists():
        raise _refused(target, f"the folder {str(folder)!r} does not exist", "Create it first")
    if not folder.is_dir():
        raise _refused(target, f"{str(folder)!r} is not a folder", "Pick another path")
    with as_output_error(target):
        # Asking the system for permission bits misleads on Windows and network drives, so try.
        probe = temporary_name(target)
        probe.open("xb").close()
        probe.unlink(missing_ok=True)  # a run to the same path may take it for a dead one's
        free = shutil.disk_usage(folder).free
    if free < size:
        raise _refused(
            target, f"about {size:,} bytes are needed and {free:,} are free", "Make room, or pick another disk"
        )


def temporary_name(target: Path) -> Path:
    """A hidden name in ``target``'s folder, with its suffix, that no other process picks."""
    return target.with_name(f".{target.stem}.{secrets.token_hex(6)}.tmp{target.suffix}")


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` last over a power cut; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def as_output_error(target: Path) -> Iterator[None]:
    """Turn operating system errors of the block into OutputError about ``target``."""
    try:
        yield
    except OSError as error:
        raise _refused(
            target, error.strerror or str(error), "Make room or check the permissions, or pick another path"
        ) from error


def _refused(path: Path, fact: str, way_out: str) -> OutputError:
    return OutputError(f"cannot write {str(path)!r}: {fact}. {way_out}.", path=str(path))
