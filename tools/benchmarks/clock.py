"""How much of a tool's time ONNX Runtime takes itself."""

import functools
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import onnxruntime as ort


class RuntimeClock:
    """While entered, adds up the time in which any InferenceSession is made or runs; nested calls count once."""

    _TIMED = ("__init__", "run")

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0
        self._originals: dict[str, Callable[..., Any]] = {}

    def __enter__(self) -> Self:
        for name in self._TIMED:
            self._originals[name] = getattr(ort.InferenceSession, name)
            setattr(ort.InferenceSession, name, self._timed(self._originals[name]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, original in self._originals.items():
            setattr(ort.InferenceSession, name, original)

    def _timed(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def timed(*arguments: Any, **options: Any) -> Any:
            self._depth += 1
            start = time.perf_counter()
            try:
                return original(*arguments, **options)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - start

        return timed
