"""The model that the quantizer hands out: a message when asked for, a file without one."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.external import huge
from tests.compat.matmul_nbits_quantizer.shared import K, products
from tests.compat.protos import described
from tests.emitters.weights.packing import run
from vqonnx.compat.matmul_nbits_quantizer import MatMulNBitsQuantizer, ONNXModel
from vqonnx.errors import ModelError, OutputError


@pytest.fixture
def processed():
    quantizer = MatMulNBitsQuantizer(products(), block_size=32)
    quantizer.process()
    return quantizer


def test_a_message_is_handed_out_as_it_is():
    message = products()
    model = ONNXModel(message)
    assert model.model is message
    assert model.graph() is message.graph
    assert [node.op_type for node in model.nodes()] == ["MatMul", "Relu", "MatMul"]
    assert sorted(tensor.name for tensor in model.initializer()) == ["a", "b"]
    assert [opset.version for opset in model.opset_import()] == [17]
    assert model.model_path is None


def test_a_path_is_read_when_it_is_asked_for(tmp_path):
    path = tmp_path / "float.onnx"
    model = ONNXModel(path)
    assert model.model_path == str(path)
    onnx.save_model(products(), path)
    assert described(model.model) == described(products())


def test_the_packed_model_is_a_valid_message_of_an_old_enough_ir(processed):
    onnx.checker.check_model(processed.model.model)
    assert processed.model.model.ir_version <= 10
    assert processed.model.model is processed.model.model


def test_changes_to_the_message_are_saved(processed, tmp_path):
    processed.model.model.producer_name = "changed"
    processed.model.save_model_to_file(tmp_path / "a.onnx")
    assert onnx.load(tmp_path / "a.onnx").producer_name == "changed"


@pytest.mark.parametrize("outside", [False, True])
def test_saved_models_compute_what_messages_do(processed, tmp_path, rng, outside):
    processed.model.save_model_to_file(str(tmp_path / "a.onnx"), outside)
    assert len(list(tmp_path.iterdir())) == 1 + outside
    feed = {"x": rng.normal(size=(3, K)).astype(np.float32)}
    saved = run(onnx.load(tmp_path / "a.onnx"), feed)["y"]
    np.testing.assert_array_equal(saved, run(processed.model.model, feed)["y"])


def test_nodes_out_of_order_are_sorted_in_place(processed):
    message = processed.model.model
    nodes = list(message.graph.node)
    del message.graph.node[:]
    message.graph.node.extend(reversed(nodes))
    processed.model.topological_sort()
    assert processed.model.model is message
    assert list(message.graph.node) == nodes


def test_a_model_that_is_not_a_message_yet_needs_no_sorting():
    model = ONNXModel(ir.from_proto(products()))
    model.topological_sort()
    assert described(model.model) == described(products())


@pytest.mark.slow
def test_a_model_beyond_one_message_is_packed_and_saved(tmp_path):
    quantizer = MatMulNBitsQuantizer(huge(tmp_path), block_size=128, op_types_to_quantize=["Gather", "Gemm"])
    with pytest.raises(ModelError, match="a ModelProto holds at most"):
        _ = quantizer.model.model
    quantizer.process()
    quantizer.model.save_model_to_file(tmp_path / "packed.onnx", use_external_data_format=True)
    assert sum(file.stat().st_size for file in tmp_path.glob("packed*")) < 300 << 20
    feed = {"ids": np.arange(8)}
    outputs = [run(tmp_path / name, feed)["y"] for name in ("model.onnx", "packed.onnx")]
    np.testing.assert_allclose(*outputs, atol=1.0)


def test_a_folder_that_is_missing_is_told(processed, tmp_path):
    with pytest.raises(OutputError):
        processed.model.save_model_to_file(tmp_path / "missing" / "a.onnx")
