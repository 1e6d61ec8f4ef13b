"""What only the peer needs; apart, so that measuring another tool does not load it."""

from collections.abc import Iterable
from pathlib import Path

import onnxruntime.quantization as peer

from benchmarks.feeds import Feed, stream


class ListReader(peer.CalibrationDataReader):  # type: ignore[misc]  # the peer's classes have no types
    """Feeds in memory as the peer wants them."""

    def __init__(self, feeds: Iterable[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        """The next feed, None at the end."""
        return next(self._feeds, None)


class PeerReader(peer.CalibrationDataReader):  # type: ignore[misc]  # the peer's classes have no types
    """Feeds from files as the peer wants them."""

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self._feeds = stream(folder, limit)

    def get_next(self) -> Feed | None:
        """The next feed, None at the end."""
        return next(self._feeds, None)
