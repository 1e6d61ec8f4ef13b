"""calibration_cache_path: ranges of this model, or none."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vqonnx.compat import quantize_static
from vqonnx.compat.calibrate import CalibrationMethod, TensorData, TensorsData, load_tensors_data, save_tensors_data
from vqonnx.errors import CacheError

FEEDS = [{"x": np.float32([[1, -2]])}, {"x": np.float32([[3, 0]])}]


def model(weight=2):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 2]) for name in "xy"]
    constant = numpy_helper.from_array(np.full((2, 2), weight, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")], "g", ends[:1], ends[1:], [constant]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def scale_of_y(path):
    scale = next(tensor for tensor in onnx.load(path).graph.initializer if tensor.name == "y_scale")
    return numpy_helper.to_array(scale)


def test_ranges_of_other_weights_are_refused(tmp_path):
    cache, first, again = (tmp_path / name for name in ("cache.json", "first.onnx", "again.onnx"))
    quantize_static(model(), first, FEEDS, calibration_cache_path=cache)
    quantize_static(model(), again, calibration_cache_path=cache)
    assert again.read_bytes() == first.read_bytes()
    with pytest.raises(CacheError, match="other weights"):
        quantize_static(model(weight=20), tmp_path / "other.onnx", FEEDS, calibration_cache_path=cache)
    with pytest.raises(ValueError, match="Entropy"):
        quantize_static(model(), again, calibration_cache_path=cache, calibrate_method=CalibrationMethod.Entropy)


def test_a_file_of_onnxruntime_is_believed(tmp_path):
    cache = tmp_path / "cache.json"
    quantize_static(model(), tmp_path / "first.onnx", FEEDS, calibration_cache_path=cache)
    content = json.loads(cache.read_text())
    del content["model"], content["smooth_quant"]
    cache.write_text(json.dumps(content))
    quantize_static(model(weight=20), tmp_path / "again.onnx", calibration_cache_path=cache)
    assert scale_of_y(tmp_path / "again.onnx") == scale_of_y(tmp_path / "first.onnx")


def test_a_distribution_says_nothing_of_integer_codes(tmp_path):
    """1.31 takes [-T, T] for them, T being the largest magnitude of the first sample or more."""
    quantize_static(model(), tmp_path / "range.onnx", FEEDS)
    with pytest.warns(RuntimeWarning, match="QInt8 activations take their observed range"):
        quantize_static(model(), tmp_path / "out.onnx", FEEDS, calibrate_method=CalibrationMethod.Distribution)
    assert scale_of_y(tmp_path / "out.onnx") == scale_of_y(tmp_path / "range.onnx")


def test_ranges_after_smoothing_are_measured_anew(tmp_path, caplog):
    cache = tmp_path / "cache.json"
    one = TensorData(lowest=np.float32(-1), highest=np.float32(1))
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, {"x": one}), cache, smooth_quant=True)
    quantize_static(model(), tmp_path / "out.onnx", FEEDS, calibration_cache_path=cache)
    assert "smooth_quant" in caplog.text
    assert json.loads(cache.read_text())["smooth_quant"] is False
    assert load_tensors_data(cache)["x"].range_value == (-2, 3)


@pytest.mark.parametrize("content", ["", "[]", '{"data": {"x": {}}}', '{"data": 3, "calibration_method": null}'])
def test_what_is_no_cache_is_refused(tmp_path, content):
    (tmp_path / "cache.json").write_text(content)
    with pytest.raises(CacheError, match="damaged or no cache"):
        quantize_static(model(), tmp_path / "out.onnx", FEEDS, calibration_cache_path=tmp_path / "cache.json")
