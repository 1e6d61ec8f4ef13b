"""External data: checked before it is read, written as one file named after its content."""

import hashlib
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

import onnx_ir as ir

from vqonnx.errors import ModelError
from vqonnx.graph import walk
from vqonnx.graph.proto import initialized_values, lazy

SMALL_ALIGNMENT = 64
"""Bytes; the widest vector load of today's CPUs."""
LARGE_ALIGNMENT = 1 << 16
"""Bytes; Windows maps files at multiples of 64 KiB, and ORT uses a mapped tensor in place."""
LARGE_TENSOR = 1 << 20


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a tensor lies in a data file: ``offset`` and ``length`` in bytes."""

    offset: int
    length: int


def bind(model: ir.Model, path: Path) -> None:
    """Check every external tensor of ``model`` and point it at its real file, in place; nothing is read.

    Args:
        model: As read from ``path``, with locations relative to its folder.
        path: The model file.

    Raises:
        ModelError: A location is absolute, has ``..`` in it, or leads through links out of the model's folder;
            a file is missing or too short. Where the model file itself is a link (as in download caches), the
            folder it leads to is allowed too.
    """
    allowed = {Path(os.path.realpath(path.parent)), Path(os.path.realpath(path)).parent}
    for tensor in external_tensors(model):
        if tensor.dtype == ir.DataType.STRING:
            raise ModelError(f"tensor {tensor.name!r} keeps strings in a data file, which ONNX does not allow.")
        if os.fspath(tensor.location) == path.name and tensor.length != tensor.nbytes:
            raise _wrong_length(tensor, tensor.length or 0)  # it lies in the .onnx file itself
    _rebind(model, lambda tensor: _locate(os.fspath(tensor.location), tensor.name, path.parent, allowed))


def rebind(model: ir.Model) -> None:
    """``bind`` for a model made by a program, which chose its files itself: any existing, long enough file will do.

    Raises:
        ModelError: A file is missing or too short.
    """
    _rebind(model, lambda tensor: _existing(Path(os.path.abspath(tensor.path)), tensor.name))


def _rebind(model: ir.Model, locate: Callable[[ir.ExternalTensor], Path]) -> None:
    files: dict[str, tuple[Path, int]] = {}

    def bound(tensor: ir.ExternalTensor) -> ir.ExternalTensor:
        if tensor.path not in files:
            real = locate(tensor)
            files[tensor.path] = real, real.stat().st_size
        return _bound(tensor, *files[tensor.path])

    for value, tensor in initialized_values(model):
        if isinstance(tensor, ir.ExternalTensor):
            value.const_value = bound(tensor)
    for node in walk.nodes(model):
        for name, attribute in list(node.attributes.items()):
            if attribute.type == ir.AttributeType.TENSOR and isinstance(attribute.value, ir.ExternalTensor):
                # ORT takes no external tensors in attributes, so it is to be inline when written.
                node.attributes[name] = ir.AttrTensor(name, lazy(bound(attribute.value)))


def external_tensors(model: ir.Model) -> Iterable[ir.ExternalTensor]:
    """The initializers whose data lies in files."""
    return (tensor for _, tensor in initialized_values(model) if isinstance(tensor, ir.ExternalTensor))


def _wrong_length(tensor: ir.TensorProtocol, given: int) -> ModelError:
    return ModelError(
        f"tensor {tensor.name!r} of shape {tuple(tensor.shape.numpy())} and type {tensor.dtype.name} takes "
        f"{tensor.nbytes:,} bytes, but the model holds {given:,}. The file is damaged; export it again."
    )


def is_inside(tensor: ir.ExternalTensor, model_file: Path) -> bool:
    """Whether a tensor lies in the .onnx file itself (``graph.lazy_read``), not in a data file."""
    return Path(tensor.path) == Path(os.path.realpath(model_file))


def _bound(tensor: ir.ExternalTensor, real: Path, size: int) -> ir.ExternalTensor:
    length = _byte_length(tensor)
    offset = tensor.offset or 0
    if offset < 0 or offset + length > size or (tensor.length or length) < length:
        raise ModelError(
            f"external data file {str(real)!r} has {size:,} bytes, but tensor {tensor.name!r} takes {length:,} from "
            f"offset {offset:,} (declared length: {tensor.length}). The file is cut off or of another model; "
            "copy it again together with the model.",
            path=str(real),
        )
    # An absolute location and no base folder: it holds when the process changes its folder, and onnx_ir does
    # not repeat the checks above (it also refuses hard links, which package managers make of every file).
    return reference(tensor, str(real), Placed(offset, length))


def _byte_length(tensor: ir.ExternalTensor) -> int:
    dims = tensor.shape.numpy()
    if min(dims, default=0) < 0:
        raise ModelError(f"tensor {tensor.name!r} has a negative dimension: {dims}. The model file is damaged.")
    return math.ceil(math.prod(dims) * tensor.dtype.bitwidth / 8)


def _locate(location: str, name: str, folder: Path, allowed: set[Path]) -> Path:
    # Both spellings on every system: a model made on one is read on another.
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    if (
        not location
        or "\0" in location
        or posix.is_absolute()
        or windows.drive
        or windows.root
        or ".." in windows.parts
    ):
        raise ModelError(
            f"tensor {name!r} keeps its data in {location!r}, which is not a path below the model's folder "
            f"{str(folder)!r}. Save the model again with its data beside it.",
            path=location,
        )
    real = Path(os.path.realpath(folder / location))
    if not any(real.is_relative_to(place) for place in allowed):
        raise ModelError(
            f"external data {str(folder / location)!r} of tensor {name!r} is a link to {str(real)!r}, outside the "
            "model's folder. Copy the file beside the model.",
            path=str(real),
        )
    return _existing(real, name)


def _existing(file: Path, name: str) -> Path:
    if not file.is_file():
        raise ModelError(
            f"external data file {str(file)!r} of tensor {name!r} is missing. "
            "Put it beside the model, under the name it was saved with.",
            path=str(file),
        )
    return file


class HashingWriter:
    """A binary sink that counts and hashes what passes; tensors write themselves into it in pieces."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes | memoryview) -> int:
        """Pass ``data`` on."""
        self._hash.update(data)
        self._file.write(data)
        self.size += len(data)
        return len(data)

    def digest(self) -> str:
        """16 hexadecimal digits that tell this content from any other in a folder."""
        return self._hash.hexdigest()[:16]


def write_tensors(tensors: Iterable[ir.TensorProtocol], file: BinaryIO) -> tuple[dict[int, Placed], str]:
    """Write each tensor once, one at a time, aligned for mapping.

    Returns:
        The place of each tensor by ``id(tensor)``, and the digest of the file's content.
    """
    writer = HashingWriter(file)
    places: dict[int, Placed] = {}
    for tensor in tensors:
        if id(tensor) in places:
            continue
        alignment = LARGE_ALIGNMENT if tensor.nbytes >= LARGE_TENSOR else SMALL_ALIGNMENT
        writer.write(bytes(-writer.size % alignment))
        offset = writer.size
        if isinstance(tensor, ir.ExternalTensor):
            tensor.tofile(writer)  # piece by piece
            walk.release(tensor)
        else:
            writer.write(whole_bytes(tensor))
        places[id(tensor)] = Placed(offset, writer.size - offset)
    return places, writer.digest()


def whole_bytes(tensor: ir.TensorProtocol) -> bytes:
    """The tensor's data, little-endian and packed, checked to be as long as its shape and type say.

    Raises:
        ModelError: The model file gave it more or less.
    """
    data = tensor.tobytes()
    if len(data) != tensor.nbytes:
        raise _wrong_length(tensor, len(data))
    return data


def digest_of(path: Path) -> str:
    """What ``write_tensors`` returns for the content of ``path``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def reference(tensor: ir.TensorProtocol, location: str, place: Placed) -> ir.ExternalTensor:
    """``tensor`` as a reference into the data file ``location``, relative to the model's folder."""
    return ir.ExternalTensor(
        location,
        place.offset,
        place.length,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name or "",
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
    )
