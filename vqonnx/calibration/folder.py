"""Samples that lie in a folder: .npz and .npy files, TensorProto .pb files, ONNX's test_data_set_N folders."""

import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from vqonnx.calibration.feeds import Array, Feed, ModelInput
from vqonnx.errors import SampleError

_SUFFIXES = (".npz", ".npy", ".pb")


def sample_paths(folder: Path) -> list[Path]:
    """The samples of ``folder``, files and test_data_set folders, numbers in their names counting as numbers.

    A folder that itself holds input_0.pb is one sample.

    Raises:
        SampleError: It is not a folder, or holds no sample.
    """
    if not folder.is_dir():
        raise SampleError(f"calibration folder {str(folder)!r} does not exist or is not a folder")
    if (folder / "input_0.pb").is_file():
        return [folder]
    paths = [path for path in folder.iterdir() if path.suffix in _SUFFIXES or (path / "input_0.pb").is_file()]
    if not paths:
        raise SampleError(
            f"calibration folder {str(folder)!r} holds no sample: no .npz (one array an input), .npy or .pb file "
            "(models with one input), and no folder with input_0.pb, input_1.pb, ..."
        )
    return sorted(paths, key=_natural)


def read_sample(path: Path, inputs: Sequence[ModelInput], sample: int) -> Feed:
    """The feed at ``path``, not yet checked against ``inputs``, which only name what a file does not.

    Raises:
        SampleError: The file cannot be read, or the model has several inputs and the file one unnamed array.
    """
    try:
        if path.is_dir():
            return _test_data_set(path, inputs)
        if path.suffix == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        array = _tensor(path)[1] if path.suffix == ".pb" else _array(path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, DecodeError) as error:
        raise SampleError(
            f"calibration sample {sample}, {str(path)!r}, cannot be read: {error}; write it again with numpy.savez "
            "(without pickled objects) or onnx.save_tensor",
            sample=sample,
        ) from error
    if len(inputs) != 1:
        raise SampleError(
            f"calibration sample {sample}, {str(path)!r}, is one array, but the model has {len(inputs)} inputs; save "
            f"an .npz file with the arrays {[info.name for info in inputs]}",
            sample=sample,
        )
    return {inputs[0].name: array}


def _test_data_set(folder: Path, inputs: Sequence[ModelInput]) -> Feed:
    """ONNX's layout: input_N.pb is the N-th input, unless the tensor bears the name of another one."""
    names = [info.name for info in inputs]
    feed: dict[str, Array] = {}
    for path in sorted(folder.glob("input_*.pb"), key=_natural):
        name, array = _tensor(path)
        position = int(path.stem.removeprefix("input_"))
        known = name in names or position >= len(names)
        feed[name if known else names[position]] = array
    return feed


def _array(path: Path) -> Array:
    with path.open("rb") as file:
        array: Array = np.load(file, allow_pickle=False)
        return array


def _tensor(path: Path) -> tuple[str, Array]:
    tensor = onnx.TensorProto.FromString(path.read_bytes())
    return tensor.name, onnx.numpy_helper.to_array(tensor)


def _natural(path: Path) -> list[tuple[int, str]]:
    """``set_10`` after ``set_9``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name)]
