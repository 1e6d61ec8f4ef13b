"""Memory of this process: the peak that the system keeps, and that of anonymous pages, which it does not."""

import resource
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

_STATUS = Path("/proc/self/status")
_FIELD = "RssAnon:"
_SECONDS = 0.005


def peak_mib() -> float:
    """Peak resident memory of this process, maps of files included."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)  # bytes there, KiB elsewhere


def anonymous_mib() -> float | None:
    """Resident memory now that no file stands behind; None where the system does not tell (only Linux does)."""
    lines = _STATUS.read_text().splitlines() if _STATUS.exists() else []
    kibibytes = next((line.split()[1] for line in lines if line.startswith(_FIELD)), None)
    return None if kibibytes is None else int(kibibytes) / 1024


class AnonymousPeak:
    """While entered, looks 200 times a second how much anonymous memory there is.

    Attributes:
        mib: The most that was seen; None where the system does not tell.
    """

    def __init__(self) -> None:
        self.mib = anonymous_mib()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        if self.mib is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._over.wait(_SECONDS):
            self._look()

    def _look(self) -> None:
        now = anonymous_mib()
        if now is not None:
            self.mib = max(now, self.mib or 0.0)
