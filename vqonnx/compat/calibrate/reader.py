"""What gives calibration samples, by onnxruntime's name."""

import abc
from typing import Any

from vqonnx.calibration.feeds import Feed


class UnknownLengthError(NotImplementedError, TypeError):
    """A reader has no length; as a TypeError, it does not keep ``list(reader)`` from working."""


class CalibrationDataReader(abc.ABC):
    """Gives one feed after the other; a class with ``get_next`` need not inherit."""

    @classmethod
    def __subclasshook__(cls, subclass: type) -> Any:
        return callable(getattr(subclass, "get_next", None)) or NotImplemented

    @abc.abstractmethod
    def get_next(self) -> Feed | None:
        """The next sample, an array for each graph input by name; None at the end."""

    def __iter__(self) -> "CalibrationDataReader":
        return self

    def __next__(self) -> Feed:
        feed = self.get_next()
        if feed is None:
            raise StopIteration
        return feed

    def __len__(self) -> int:
        """The number of samples, where a subclass knows it."""
        raise UnknownLengthError(f"{type(self).__name__} does not tell how many samples it has; define __len__")

    def set_range(self, start_index: int, end_index: int) -> None:
        """Give the samples from ``start_index`` up to ``end_index`` next, where a subclass can."""
        raise NotImplementedError
