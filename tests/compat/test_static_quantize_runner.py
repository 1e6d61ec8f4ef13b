"""The peer's command for models with samples beside them."""

import json
import runpy
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vqonnx.compat.static_quantize_runner import OnnxModelCalibrationDataReader, main, parse_arguments, quant_config
from vqonnx.errors import OptionError, SampleError
from vqonnx.quantizers.types import CalibrationMethod, QuantFormat, QuantType


@pytest.fixture
def paths(tmp_path):
    """x * w + z -> y, with two samples beside it."""
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in "xzy"]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "product"),
        helper.make_node("Add", ["m", "z"], ["y"], "sum"),
    ]
    weight = numpy_helper.from_array(np.float32([[1, -2], [3, 4]]), "w")
    graph = helper.make_graph(nodes, "graph", info[:2], info[2:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "m.onnx")
    for number in range(2):
        folder = tmp_path / f"test_data_set_{number}"
        folder.mkdir()
        for position in range(2):
            onnx.save_tensor(
                numpy_helper.from_array(np.full((2, 2), number + position, np.float32)), folder / f"input_{position}.pb"
            )
    np.save(tmp_path / "other.npy", np.zeros(3))
    return ["-i", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "q.onnx")]


def test_a_model_is_quantized_with_the_samples_beside_it(paths, tmp_path):
    overrides = tmp_path / "overrides.json"
    overrides.write_text(json.dumps({"x": [{"scale": 0.25, "zero_point": 3}]}))
    main([*paths, "--weight_type", "quint8", "--tensor_quant_overrides", str(overrides)])
    model = onnx.load(paths[3])
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert (constants["x_scale"], constants["x_zero_point"]) == (0.25, 3)
    assert constants["w_quantized"].dtype == np.uint8
    assert constants["z_scale"] == pytest.approx(2 / 255)  # of both samples


def test_every_option_arrives(paths):
    flags = ["--per_channel", "--disable_quantize_bias", "--dedicated_qdq_pair"]
    pairs = ["--quant_format", "qoperator", "--calibration_method", "entropy", "--activation_type", "qint16"]
    lists = ["--op_per_channel_axis", "MatMul", "1", "--nodes_to_exclude", "sum", "product"]
    config = quant_config(parse_arguments([*paths, *flags, *pairs, *lists]))
    assert config.quant_format is QuantFormat.QOperator
    assert config.calibrate_method is CalibrationMethod.Entropy
    assert config.activation_type is QuantType.QInt16
    assert config.per_channel
    assert config.nodes_to_exclude == ["sum", "product"]
    options = config.extra_options
    assert options["QDQOpTypePerChannelSupportToAxis"] == {"MatMul": 1}  # a number, as the peer's is not
    assert options["QuantizeBias"] is False
    assert options["DedicatedQDQPair"] is True
    assert options["AddQDQPairToWeight"] is False
    assert options["MinimumRealRange"] == 0.0001


def test_samples_are_read_one_after_the_other(paths):
    reader = OnnxModelCalibrationDataReader(paths[1])
    feeds = list(reader)
    assert [float(feed["z"][0, 0]) for feed in feeds] == [1, 2]
    assert reader.get_next() is None


def test_bad_input_is_refused(paths, tmp_path):
    with pytest.raises(OptionError, match="number of an axis"):
        quant_config(parse_arguments([*paths, "--op_per_channel_axis", "MatMul", "last"]))
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(OptionError, match="cannot read overrides"):
        quant_config(parse_arguments([*paths, "--tensor_quant_overrides", str(tmp_path / "bad.json")]))
    for file in tmp_path.glob("test_data_set_*/*.pb"):
        file.unlink()
    with pytest.raises(SampleError, match="test_data_set_0"):
        OnnxModelCalibrationDataReader(paths[1])


def test_the_command_ends_with_2_for_bad_input(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["runner", "-i", str(tmp_path / "none.onnx"), "-o", "q.onnx"])
    monkeypatch.delitem(sys.modules, "vqonnx.compat.static_quantize_runner")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("vqonnx.compat.static_quantize_runner", run_name="__main__")
    assert ended.value.code == 2
    assert "none.onnx" in capsys.readouterr().err
