"""The errors that vqonnx raises for bad input, as one tree.

::

    VqonnxError
      ModelError          the model file or graph
        UnsupportedModelError   a valid model that cannot be quantized as asked
      OutputError         where the result is to be written
      SampleError         a calibration sample (also a ValueError)
      OptionError         an argument, option, name or pattern (also a ValueError)
        UnsupportedOptionError  one that makes sense but cannot be had (also a NotImplementedError)
      QuantRangeError     a range that no scale fits (also a ValueError)
      CacheError          a calibration cache that does not belong to this run
      VerificationError   a result that does not load or run
      DependencyError     a package or execution provider that is not installed

Each says what, where, the fact and the way out; the facts are also fields.
"""

import difflib
from collections.abc import Iterable


class VqonnxError(Exception):
    """Base of all errors that vqonnx raises on purpose; the command line prints its text and exits with 2."""


class ModelError(VqonnxError):
    """A model that cannot be read, or is not valid ONNX."""

    def __init__(self, message: str, *, path: str | None = None, node: str | None = None) -> None:
        self.path, self.node = path, node
        super().__init__(message)


class UnsupportedModelError(ModelError):
    """A valid model that cannot be quantized as asked."""


class OutputError(VqonnxError):
    """An output path that cannot be written."""

    def __init__(self, message: str, *, path: str) -> None:
        self.path = path
        super().__init__(message)


class SampleError(VqonnxError, ValueError):
    """A calibration sample that does not fit the model, or holds NaN or infinity."""

    def __init__(self, message: str, *, sample: int | None = None, tensor: str | None = None) -> None:
        self.sample, self.tensor = sample, tensor
        super().__init__(message)


class OptionError(VqonnxError, ValueError):
    """An argument that names nothing, is out of range, or contradicts another."""

    def __init__(self, message: str, *, option: str | None = None) -> None:
        self.option = option
        super().__init__(message)


class UnsupportedOptionError(OptionError, NotImplementedError):
    """An option that makes sense, and that nothing here can do."""


class QuantRangeError(VqonnxError, ValueError):
    """A range that no scale fits: an end is not finite, or the ends are swapped."""

    def __init__(self, message: str, *, tensor: str | None = None) -> None:
        self.tensor = tensor
        super().__init__(message)


class CacheError(VqonnxError):
    """A calibration cache that is damaged or was made from another model, plan or data."""

    def __init__(self, message: str, *, path: str) -> None:
        self.path = path
        super().__init__(message)


class VerificationError(VqonnxError):
    """A result that ONNX Runtime does not load or run; nothing was saved."""

    def __init__(self, message: str, *, path: str | None = None) -> None:
        self.path = path
        super().__init__(message)


class DependencyError(VqonnxError):
    """A package or an execution provider that this machine lacks."""

    def __init__(self, message: str, *, package: str) -> None:
        self.package = package
        super().__init__(message)


def nearest(name: str, candidates: Iterable[str], *, count: int = 3) -> str:
    """``" (did you mean 'a', 'b'?)"`` for the candidates that look like ``name``; empty if none does."""
    close = difflib.get_close_matches(name, list(candidates), n=count, cutoff=0.5)
    return f" (did you mean {', '.join(map(repr, close))}?)" if close else ""
