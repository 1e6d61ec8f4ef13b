"""Write a model with external data in the files that the caller names, as onnx.save_model does, but in one step."""

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx_ir as ir

from vqonnx.compat.calibrate.cache import write_file
from vqonnx.errors import OptionError
from vqonnx.graph import atomic
from vqonnx.graph import external as data_files
from vqonnx.graph.io import save
from vqonnx.graph.pending import pending_files, synced_file
from vqonnx.graph.proto import initialized_values, lazy, serialized
from vqonnx.graph.versions import least_ir_version


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalData:
    """Where tensors go.

    Attributes:
        one_file: All of them into one file, not one file each.
        location: That file, below the model's folder; ``<model>.data`` by default.
        threshold: Tensors of at least so many bytes go outside.
    """

    one_file: bool = False
    location: str | None = None
    threshold: int = 1024


def save_model(model: ir.Model, path: str | os.PathLike[str], external: ExternalData | None) -> None:
    """Write ``model``; the path holds the old file until the new one, and its data, are complete.

    Args:
        model: What to write.
        path: The .onnx file.
        external: Where its tensors go; None: into it, as far as it can hold them.

    Raises:
        OptionError: The location is not below the model's folder, or is a file that the model reads from.
        OutputError: The folder cannot be written.
    """
    target = Path(path)
    if external is None:
        save(model, target)
        return
    chosen = {
        value: tensor
        for value, tensor in initialized_values(model)
        if tensor.nbytes >= external.threshold and tensor.dtype != ir.DataType.STRING
    }
    atomic.check_writable(target, sum(tensor.nbytes for tensor in chosen.values()))
    files = _files(model, target, external, list(chosen))
    model.ir_version = least_ir_version(model)
    references: dict[ir.Value, ir.TensorProtocol] = {
        value: lazy(tensor) for value, tensor in initialized_values(model) if isinstance(tensor, ir.ExternalTensor)
    }
    with pending_files(target) as pending:
        written: dict[Path, Path] = {}
        for name, values in files.items():
            file = target.parent / name
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = pending.new(file)
            with synced_file(draft) as stream:
                places, _ = data_files.write_tensors([chosen[value] for value in values], stream)
            written[draft] = file
            references |= {
                value: data_files.reference(chosen[value], name, places[id(chosen[value])]) for value in values
            }
        content = serialized(model, references)
        for draft, file in written.items():
            pending.place(draft, file)
        write_file(target, content)


def _files(model: ir.Model, target: Path, external: ExternalData, values: list[ir.Value]) -> dict[str, list[ir.Value]]:
    """The values of each file, by its place below the model's folder."""
    if external.one_file:
        files = {external.location or f"{target.name}.data": values} if values else {}
    else:
        files = {}
        for value in values:
            files[_unique(re.sub(r"[^\w.\-]", "_", value.name or "tensor"), files, target.name)] = [value]
    read = {Path(tensor.path) for tensor in data_files.external_tensors(model)}
    for name in files:
        _refuse_outside(name)
        if Path(os.path.realpath(target.parent / name)) in read:
            raise OptionError(
                f"{str(target.parent / name)!r} is the data of the model that is read, which would be lost; choose "
                "another folder or external_data_location",
                option="external_data_location",
            )
    return files


def _refuse_outside(name: str) -> None:
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise OptionError(
            f"external data lies below the model's folder, and {name!r} does not; give a relative path without '..'",
            option="external_data_location",
        )


def _unique(name: str, taken: dict[str, list[ir.Value]], model: str) -> str:
    number, unique = 0, name
    while unique in taken or unique == model:
        number += 1
        unique = f"{name}_{number}"
    return unique
