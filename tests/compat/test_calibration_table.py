"""Calibration tables, read back by the letter of the FlatBuffers format."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqonnx.compat.calibrate import CalibrationMethod, TensorData, TensorsData
from vqonnx.compat.calibration_table import flat_table, write_calibration_table
from vqonnx.errors import OptionError, OutputError


def read_table(data):
    """Keys and values; every offset is followed and every alignment checked (flatbuffers.dev/internals)."""

    def at(kind, place):
        assert place % struct.calcsize(kind) == 0
        return struct.unpack_from(f"<{kind}", data, place)[0]

    def followed(place):
        return place + at("I", place)

    def field(table, index):
        vtable = table - at("i", table)
        assert at("H", vtable) >= 4 + 2 * (index + 1)
        offset = at("H", vtable + 4 + 2 * index)
        assert 0 < offset < at("H", vtable + 2)
        return followed(table + offset)

    def string(place):
        text = data[place + 4 : place + 4 + at("I", place)]
        assert data[place + 4 + len(text)] == 0
        return text.decode()

    vector = field(followed(0), 0)
    tables = [followed(vector + 4 * (1 + number)) for number in range(at("I", vector))]
    return [tuple(string(field(table, index)) for index in (0, 1)) for table in tables]


@given(st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=9))
def test_a_flat_table_holds_its_entries(entries):
    assert read_table(flat_table(entries)) == list(entries.items())


@pytest.mark.peer
def test_onnxruntimes_reader_reads_it():
    pytest.importorskip("flatbuffers")
    peer = pytest.importorskip("onnxruntime.quantization.CalTableFlatBuffers.TrtTable")
    table = peer.TrtTable.GetRootAs(flat_table({"a": "1.5", "b": "2"}), 0)
    assert [(table.Dict(i).Key(), table.Dict(i).Value()) for i in range(table.DictLength())] == [
        (b"a", b"1.5"),
        (b"b", b"2"),
    ]


def ends(low, high):
    return TensorData(lowest=np.array([low], np.float32), highest=np.float32(high))


def test_three_files_hold_the_largest_magnitudes(tmp_path, monkeypatch):
    elsewhere = tmp_path / "working folder"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    data = TensorsData(CalibrationMethod.MinMax, {"y": ends(-3, 1.5), "x": ends(0.25, 2)})
    write_calibration_table(data, tmp_path)
    assert (tmp_path / "calibration.cache").read_text() == "x 2.0\ny 3.0\n"
    assert read_table((tmp_path / "calibration.flatbuffers").read_bytes()) == [("x", "2.0"), ("y", "3.0")]
    stored = TensorsData.from_dict(json.loads((tmp_path / "calibration.json").read_text()))
    assert stored["y"].range_value == (-3, 1.5)
    assert not any(elsewhere.iterdir())
    assert len(list(tmp_path.iterdir())) == 4


def test_what_no_table_can_hold_is_refused_before_anything_is_written(tmp_path):
    channels = TensorData(lowest=np.zeros(2, np.float32), highest=np.ones(2, np.float32))
    for bad in (channels, ends(-np.inf, 1)):
        with pytest.raises(OptionError, match="'x' has the range"):
            write_calibration_table({"x": bad}, tmp_path)
    assert not any(tmp_path.iterdir())
    with pytest.raises(OutputError):
        write_calibration_table({"x": ends(0, 1)}, tmp_path / "none")
