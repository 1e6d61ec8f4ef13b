"""TensorData, TensorsData and the cache file."""

import json

import numpy as np
import pytest

from tests.versions import since
from vqonnx.compat.calibrate import (
    CalibrationMethod,
    MissingCacheError,
    TensorData,
    TensorsData,
    load_tensors_data,
    save_tensors_data,
)
from vqonnx.errors import CacheError, OptionError, OutputError

F32 = np.float32


def some_data():
    ends = {"lowest": np.array([-1, -2], np.float16), "highest": np.array([1, 2], np.float16)}
    counted = (F32(-3.25), F32(0.1), np.array([1, 2, 3]), np.array([0, 1, 2, 3], F32))
    return TensorsData(CalibrationMethod.Percentile, {"per channel": TensorData(**ends), "counted": counted})


def test_a_cache_gives_back_what_was_saved(tmp_path):
    path = tmp_path / "new folder" / "cache.json"
    data = some_data()
    save_tensors_data(data, path, smooth_quant=True)
    loaded = load_tensors_data(path)
    assert loaded.calibration_method is CalibrationMethod.Percentile
    assert list(loaded) == list(data)
    for name, expected in data.items():
        for found, wanted in zip(loaded[name].range_value, expected.range_value, strict=True):
            np.testing.assert_array_equal(found, wanted, strict=isinstance(wanted, np.ndarray))
    np.testing.assert_array_equal(loaded["counted"].hist, [1, 2, 3])
    assert json.loads(path.read_text())["smooth_quant"] is True
    assert [file.name for file in path.parent.iterdir()] == ["cache.json"]


@pytest.mark.peer
def test_onnxruntime_reads_our_cache_and_we_read_its(tmp_path):
    since("1.31", "load_tensors_data")
    peer = pytest.importorskip("onnxruntime.quantization.calibrate")
    save_tensors_data(some_data(), tmp_path / "ours.json")
    theirs = peer.load_tensors_data(tmp_path / "ours.json")
    assert theirs.calibration_method is peer.CalibrationMethod.Percentile
    peer.save_tensors_data(theirs, tmp_path / "theirs.json")
    back = load_tensors_data(tmp_path / "theirs.json")
    assert back.calibration_method is CalibrationMethod.Percentile
    np.testing.assert_array_equal(back["per channel"].lowest, [-1, -2])


def test_a_missing_cache_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no calibration cache") as raised:
        load_tensors_data(tmp_path / "none.json")
    assert isinstance(raised.value, MissingCacheError)
    with pytest.raises(ValueError, match="not a file"):
        load_tensors_data(tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 40, 300])
def test_a_cache_that_was_cut_off_is_refused(tmp_path, kept):
    path = tmp_path / "cache.json"
    save_tensors_data(some_data(), path)
    assert path.stat().st_size > kept
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CacheError, match="damaged"):
        load_tensors_data(path)


def test_a_cache_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        save_tensors_data(some_data(), tmp_path / "file" / "cache.json")


def test_only_known_fields_of_float_types_are_taken():
    with pytest.raises(ValueError, match="'maximum' is no field"):
        TensorData(maximum=F32(1))
    with pytest.raises(OptionError, match="float64"):
        TensorData(lowest=np.array(1.0), highest=F32(1))
    with pytest.raises(OptionError, match="not a float"):
        TensorData(lowest=1.0, highest=F32(1))
    with pytest.raises(AttributeError):
        _ = TensorData(hist=np.zeros(3)).range_value


def test_tensors_are_replaced_not_added():
    data = some_data()
    data["counted"] = TensorData(lowest=F32(0), highest=F32(1))
    assert data["counted"].range_value == (0, 1)
    with pytest.raises(RuntimeError, match="'other' was not calibrated"):
        data["other"] = data["counted"]
    with pytest.raises(TypeError):
        TensorsData(CalibrationMethod.MinMax, {1: data["counted"]})
    with pytest.raises(TypeError, match="2 elements"):
        TensorsData(CalibrationMethod.Entropy, {"x": (F32(0), F32(1))})
