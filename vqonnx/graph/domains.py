"""The domains whose operators a model uses."""

import mmap
from pathlib import Path

import onnx
import onnx_ir as ir

from vqonnx.graph.wire import fields

_OPSET_IMPORT = onnx.ModelProto.OPSET_IMPORT_FIELD_NUMBER


def imported_domains(model: ir.Model | Path) -> frozenset[str]:
    """The domains that the model imports; of a file, those of its main graph, read without the rest of it.

    A file that cannot be read has none: whatever opens it says more.
    """
    if isinstance(model, ir.Model):
        return frozenset(model.opset_imports).union(*(function.opset_imports for function in model.functions.values()))
    try:
        with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return frozenset(_domains(memoryview(view)))
    except (OSError, ValueError):  # mmap refuses an empty file with a ValueError, and MalformedError is one
        return frozenset()


def _domains(view: memoryview) -> list[str]:
    with view:
        found = [field for field in fields(view, 0, len(view)) if field.number == _OPSET_IMPORT]
        return [onnx.OperatorSetIdProto.FromString(bytes(view[one.content : one.stop])).domain for one in found]
