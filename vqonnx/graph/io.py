"""Load a private model; save one so that the path holds the old file or the new one, never a part of it."""

import contextlib
import copy
import mmap
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from vqonnx.errors import ModelError, OptionError
from vqonnx.graph import atomic, pending, walk
from vqonnx.graph import external as data_files
from vqonnx.graph.edit import free_negative_sizes
from vqonnx.graph.lazy_read import without_large_tensors
from vqonnx.graph.proto import (
    PROTO_LIMIT,
    from_proto,
    guard_tensors,
    initialized_values,
    lazy,
)
from vqonnx.graph.stream import write_inline
from vqonnx.graph.versions import least_ir_version
from vqonnx.graph.wire import MalformedError

EXTERNAL_ABOVE = 3 << 29
"""Bytes of tensors (1.5 GiB) above which data goes into a file of its own; one message ends at 2 GiB."""
MAPPED_FROM = 1 << 26
"""Bytes of a file (64 MiB) from which on its large tensors are not read but mapped."""
_MAPPED_TENSOR = 1 << 16
_DATA = ".data"
INLINE_BELOW = 1024
"""Tensors smaller than this many bytes stay in the .onnx file in any case."""

ModelSource = str | os.PathLike[str] | onnx.ModelProto | ir.Model


@dataclass(frozen=True, slots=True)
class SavedModel:
    """What ``save`` wrote: the .onnx file, its data file if there is one, and the bytes of both."""

    path: Path
    data_path: Path | None
    size: int


def load(source: ModelSource) -> ir.Model:
    """A private model: whatever is done to it, the caller's object, file and folder stay as they are.

    External tensors stay in their files and are mapped when read; they are checked now.

    Raises:
        ModelError: The file is missing, empty, cut off or not ONNX; external data is missing, too short or
            outside the model's folder; a ModelProto refers to files without saying where.
    """
    if isinstance(source, ir.Model):
        return _clone(source)
    if isinstance(source, onnx.ModelProto):
        model = from_proto(source)
        outside = next(iter(data_files.external_tensors(model)), None)
        if outside is not None:
            raise ModelError(
                f"tensor {outside.name!r} of the ModelProto lies in the file {str(outside.location)!r}, and a "
                "ModelProto does not know its folder. Pass the model's path, or load it with its data (onnx.load)."
            )
        return model
    path = Path(source)
    model = from_proto(_read(path), owned=True, path=str(path))
    data_files.bind(model, path)
    return model


def _clone(model: ir.Model) -> ir.Model:
    try:
        clone = model.clone()
    except RuntimeError as error:
        raise ModelError(
            f"graph {model.graph.name!r} cannot be copied: {error.__cause__ or error}. "
            "Its nodes may be out of order: call model.graph.sort()."
        ) from error
    guard_tensors(clone)
    data_files.rebind(clone)
    free_negative_sizes(clone)
    for value in walk.values(clone):
        value.type = copy.deepcopy(value.type)  # clone() shares it, and value.dtype = … changes it in place
    return clone


def _read(path: Path) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        size = path.stat().st_size
        if size > PROTO_LIMIT:
            raise ModelError(
                f"{str(path)!r} has {size:,} bytes; one ONNX message holds at most {PROTO_LIMIT:,}. "
                "Save the model with external data.",
                path=str(path),
            )
        if size:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                _parse(proto, view, path)
    except OSError as error:
        raise ModelError(
            f"cannot read model {str(path)!r}: {error.strerror}. Check the path and its permissions.", path=str(path)
        ) from error
    except DecodeError as error:
        raise ModelError(
            f"{str(path)!r} is not an ONNX model, or was cut off ({size:,} bytes). Export or download it again.",
            path=str(path),
        ) from error
    return proto


def _parse(proto: onnx.ModelProto, view: mmap.mmap, path: Path) -> None:
    with memoryview(view) as data:
        if len(data) >= MAPPED_FROM:
            with contextlib.suppress(MalformedError):  # what protobuf says of it is what the user gets to know
                proto.ParseFromString(without_large_tensors(data, path.name, _MAPPED_TENSOR))
                return
        proto.ParseFromString(data)


def save(
    model: ir.Model,
    path: str | os.PathLike[str],
    *,
    external: bool | None = None,
    check: Callable[[Path], None] | None = None,
) -> SavedModel:
    """Write ``model`` to ``path`` in one step: until the last rename the old file is whole, after it the new one.

    With external data, ``<stem>.<hash of its content>.data`` is written beside it first, tensor by tensor. An
    older file of that form is removed afterwards if the replaced model referred to it and no other model in
    the folder does; tensors of ``model`` that were mapped from it are then no longer readable.
    Equal models give equal bytes. A link at ``path`` is replaced, not followed.

    Args:
        model: Not changed, but for its IR version, which is set to the least that its content needs.
        path: The .onnx file; may be the one that ``model`` was loaded from.
        external: Put tensors into a data file; None: when they exceed ``EXTERNAL_ABOVE``.
        check: Called with a complete temporary file in the same folder; what it raises stops the save.

    Raises:
        OutputError: The folder is missing, read-only or full. The old file is whole, nothing is left behind.
        OptionError: ``external`` is False and the model does not fit into one file.
    """
    target = Path(path)
    total = sum(tensor.nbytes for _, tensor in initialized_values(model))
    use_external = total > EXTERNAL_ABOVE if external is None else external
    if not use_external and total >= PROTO_LIMIT:
        raise OptionError(
            f"the model's tensors take {total:,} bytes; one .onnx file holds {PROTO_LIMIT:,}. Drop external=False.",
            option="external",
        )
    atomic.check_writable(target, total)
    model.ir_version = least_ir_version(model)
    _remove_dead(target)
    with pending.pending_files(target) as files:
        data, tensors = _write_data(model, target, files) if use_external else (None, _inlined(model))
        large = {} if data else _streamed(model)
        draft = files.new(target)
        with pending.synced_file(draft) as file:
            write_inline(model, tensors, large, file)
        if check is not None:
            check(draft)
        stale = [file for file in _data_of(target, target) if file != data]
        size = draft.stat().st_size + (data.stat().st_size if data else 0)
        files.place(draft, target)
    _tidy(model, target, stale)
    return SavedModel(target, data, size)


def _inlined(model: ir.Model) -> dict[ir.Value, ir.TensorProtocol]:
    return {value: lazy(tensor) for value, tensor in initialized_values(model) if isinstance(tensor, ir.ExternalTensor)}


def _streamed(model: ir.Model) -> dict[ir.Value, ir.TensorProtocol]:
    return {
        value: tensor
        for value, tensor in initialized_values(model)
        if value.graph is model.graph and _goes_outside(tensor)
    }


def _write_data(
    model: ir.Model, target: Path, files: pending.PendingFiles
) -> tuple[Path | None, dict[ir.Value, ir.TensorProtocol]]:
    """Write the data file; return it and, for each value, the tensor that stands for it in the message."""
    chosen = {value: tensor for value, tensor in initialized_values(model) if _goes_outside(tensor)}
    if not chosen:
        return None, _inlined(model)
    draft = files.new(target.with_suffix(_DATA))
    with pending.synced_file(draft) as file:
        places, digest = data_files.write_tensors(chosen.values(), file)
    final = target.with_name(f"{target.stem}.{digest}{_DATA}")
    if final.is_file() and data_files.digest_of(final) == digest and files.hold(final):
        files.drop(draft)  # the same content under the same name, perhaps mapped by this very model
    else:
        files.place_for_now(draft, final)
    located = {value: data_files.reference(tensor, final.name, places[id(tensor)]) for value, tensor in chosen.items()}
    return final, _inlined(model) | located


def _goes_outside(tensor: ir.TensorProtocol) -> bool:
    return tensor.nbytes >= INLINE_BELOW and tensor.dtype != ir.DataType.STRING


def _data_of(model_file: Path, target: Path) -> list[Path]:
    """Data files of ``target``, in our naming, that no other model than this one refers to."""
    if not model_file.is_file():
        return []
    ours = re.compile(re.escape(target.stem) + r"\.[0-9a-f]{16}\.data")
    named = [file for file in target.parent.iterdir() if ours.fullmatch(file.name)]
    others = [file for file in target.parent.glob("*.onnx") if file != model_file] if named else []
    return [
        file
        for file in named
        if _mentions(model_file, file.name) and not any(_mentions(other, file.name) for other in others)
    ]


def _remove_dead(target: Path) -> None:
    """Remove what killed runs left: drafts, and data files that were in place already for one of them alone."""
    with atomic.as_output_error(target):
        for draft in pending.drafts_of(target.with_suffix(_DATA)):
            pending.remove_unheld(draft)
        for draft in pending.drafts_of(target):
            data = _data_of(draft, target)
            if pending.remove_unheld(draft):
                for file in data:
                    pending.remove_unheld(file)


def _mentions(model_file: Path, name: str) -> bool:
    if not model_file.is_file() or model_file.stat().st_size == 0:
        return False
    with model_file.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return view.find(name.encode()) >= 0


def _tidy(model: ir.Model, target: Path, stale: list[Path]) -> None:
    """What follows the commit; nothing of it may fail the save, whose file is in place."""
    with contextlib.suppress(OSError):
        atomic.sync_folder(target.parent)
    for file in stale:
        for tensor in data_files.external_tensors(model):
            if Path(tensor.path) == file.absolute():
                with contextlib.suppress(BufferError):  # an array of it is still in use; the map goes with it
                    tensor.release()  # Windows does not remove a file that is mapped
        pending.remove_unheld(file)
