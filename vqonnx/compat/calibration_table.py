"""Calibrated ranges as the tables that ONNX Runtime's TensorRT and MIGraphX providers read.

The binary one is a FlatBuffer of this schema, which is small enough to be written here::

    table KeyValue { key: string; value: string; }
    table TrtTable { dict: [KeyValue]; }
    root_type TrtTable;
"""

import json
import struct
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np

from vqonnx.compat.calibrate.cache import CalibrationCacheEncoder, write_file
from vqonnx.errors import OptionError

_FIELDS = 2  # of a KeyValue; a TrtTable has one
_WORD = 4


def write_calibration_table(
    calibration_cache: Mapping[str, Any],
    dir: str | PathLike[str] = ".",  # noqa: A002 - the peer's name
) -> None:
    """Write ``calibration.json``, ``calibration.flatbuffers`` and ``calibration.cache`` (text) into a folder.

    The last two hold one number a tensor, its largest magnitude, since TensorRT's ranges are centred on zero.
    (onnxruntime 1.31 writes the upper end, which cuts off tensors whose lower end is further out.)

    Args:
        calibration_cache: TensorsData, or ranges by tensor name.
        dir: The folder; it must exist. The working folder by default, as in onnxruntime.

    Raises:
        OptionError: A range is one of channels, or is not finite.
        OutputError: The folder cannot be written; files that it held are whole.
    """
    folder = Path(fspath(dir))
    largest = {name: _largest(name, calibration_cache[name]) for name in sorted(calibration_cache.keys())}
    content = {
        "calibration.json": json.dumps(calibration_cache, cls=CalibrationCacheEncoder).encode(),
        "calibration.flatbuffers": flat_table(largest),
        "calibration.cache": "".join(f"{name} {value}\n" for name, value in largest.items()).encode(),
    }
    for name, data in content.items():
        write_file(folder / name, data)


def _largest(name: str, data: Any) -> str:
    """The largest magnitude in the range, as text."""
    ends = [np.asarray(end) for end in getattr(data, "range_value", data)]
    if any(end.size != 1 or not np.isfinite(end).all() for end in ends):
        raise OptionError(
            f"tensor {name!r} has the range {[end.tolist() for end in ends]}, and a calibration table holds one finite "
            "number a tensor; calibrate without per_channel, on finite samples",
            option="calibration_cache",
        )
    return str(max(abs(float(end.reshape(()))) for end in ends))


def flat_table(entries: Mapping[str, str]) -> bytes:
    """A finished FlatBuffer of a TrtTable with these keys and values, in their order.

    Offsets point forward, as the format wants it, so everything is laid out from the root on: each table stands
    behind its vtable, then comes the vector of offsets to the KeyValues, then these and their strings.
    """
    buffer = bytearray(_WORD)  # the root's offset, known below
    root = _table(buffer, 1)
    struct.pack_into("<I", buffer, 0, root)
    _point(buffer, root + _WORD, len(buffer))
    vector = len(buffer)
    buffer += struct.pack("<I", len(entries)) + bytes(_WORD * len(entries))
    for number, entry in enumerate(entries.items()):
        table = _table(buffer, _FIELDS)
        _point(buffer, vector + _WORD * (1 + number), table)
        for index, text in enumerate(entry):
            _point(buffer, table + _WORD * (1 + index), len(buffer))
            data = text.encode()
            buffer += struct.pack("<I", len(data)) + data + b"\0"
            buffer += bytes(-len(buffer) % _WORD)
    return bytes(buffer)


def _table(buffer: bytearray, fields: int) -> int:
    """Append a vtable and a table of ``fields`` offsets that are not yet known; return where the table begins."""
    sizes = [2 * (2 + fields), _WORD * (1 + fields)]
    vtable = struct.pack(f"<{2 + fields}H", *sizes, *(_WORD * (1 + index) for index in range(fields)))
    buffer += bytes(-(len(buffer) + len(vtable)) % _WORD)
    place = len(buffer)
    buffer += vtable
    table = len(buffer)
    buffer += struct.pack("<i", table - place) + bytes(_WORD * fields)
    return table


def _point(buffer: bytearray, place: int, target: int) -> None:
    struct.pack_into("<I", buffer, place, target - place)
