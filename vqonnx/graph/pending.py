"""Hidden files that take their place in one step; what a killed run left of them is removed by a later one.

A run holds each of its drafts from its making until it is in place: by a shared lock (flock), and on Windows, where a
file that is open cannot be removed, by having it open. The system lets go when the process ends, however it does. So
what nobody holds belongs to nobody. Where a disk has no locks, nothing is removed.
"""

import contextlib
import errno
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from vqonnx.graph.atomic import as_output_error, temporary_name


class PendingFiles:
    """The files of one run that are on their way to their place."""

    def __init__(self) -> None:
        self._held: dict[Path, BinaryIO] = {}
        self._pending: list[Path] = []

    def new(self, target: Path) -> Path:
        """A new file in ``target``'s folder, under a hidden name."""
        while True:
            draft = temporary_name(target)
            draft.open("xb").close()
            if self.hold(draft):
                self._pending.append(draft)
                return draft

    def hold(self, path: Path) -> bool:
        """Keep other runs from removing a file; whether it is still there."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return False
        if not _share(file) or not _is_at(file, path):
            file.close()
            return False
        self._held[path] = file
        return True

    def place(self, draft: Path, target: Path) -> None:
        """Rename a draft to what it was made for; from then on it stays, whatever comes."""
        self._rename(draft, target)
        self._pending.remove(draft)

    def place_for_now(self, draft: Path, target: Path) -> None:
        """Rename a draft to what others refer to; it is still held, and goes when one of the others fails."""
        self._pending.append(target)
        self._rename(draft, target)
        self._pending.remove(draft)
        if not self.hold(target):
            raise FileNotFoundError(errno.ENOENT, f"{target.name!r} was removed at once", str(target))

    def drop(self, draft: Path) -> None:
        """Remove a draft that is not needed."""
        self._held.pop(draft).close()
        draft.unlink()
        self._pending.remove(draft)

    def remove(self) -> None:
        """Remove all that are not in place."""
        self.release()
        for path in self._pending:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def release(self) -> None:
        """Hold nothing any more."""
        for file in self._held.values():
            file.close()
        self._held.clear()

    def _rename(self, draft: Path, target: Path) -> None:
        if os.name == "nt":  # an open file cannot be renamed either
            self._held.pop(draft).close()
        draft.replace(target)


@contextlib.contextmanager
def pending_files(target: Path) -> Iterator[PendingFiles]:
    """Drafts that are removed when the block fails; operating system errors become OutputError about ``target``.

    What killed runs left of ``target`` is removed first.
    """
    files = PendingFiles()
    try:
        with as_output_error(target):
            for left in drafts_of(target):
                remove_unheld(left)
            yield files
    except BaseException:
        files.remove()
        raise
    finally:
        files.release()


@contextlib.contextmanager
def synced_file(draft: Path) -> Iterator[BinaryIO]:
    """A draft to write to; when the block ends it is on the disk."""
    with draft.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def drafts_of(target: Path) -> list[Path]:
    """The drafts of ``target`` that are there, whoever's they are."""
    name = re.compile(rf"\.{re.escape(target.stem)}\.[0-9a-f]{{12}}\.tmp{re.escape(target.suffix)}")
    with contextlib.suppress(OSError), os.scandir(target.parent) as entries:
        named = [entry.name for entry in entries if name.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)]
        return [target.with_name(found) for found in sorted(named)]
    return []


def _is_at(file: BinaryIO, path: Path) -> bool:
    """Whether an open file is what stands at ``path``, and was not removed before it was locked."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


if sys.platform == "win32":

    def _share(_: BinaryIO) -> bool:
        return True  # an open file stays

    def remove_unheld(path: Path) -> bool:
        """Remove a file that no run holds; whether it is gone."""
        with contextlib.suppress(OSError):
            path.unlink()
            return True
        return False

else:
    import fcntl

    def _share(file: BinaryIO) -> bool:
        """Lock against removal; False if it is being removed."""
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a disk without locks, on which nothing is removed
        return True

    def remove_unheld(path: Path) -> bool:
        """Remove a file that no run holds; whether it is gone."""
        with contextlib.suppress(OSError), path.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            return True
        return False
