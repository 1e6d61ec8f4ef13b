"""Files whose large tensors are mapped instead of read: the same model, less memory, the same errors."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from models.registry import load as load_cases
from vqonnx.errors import ModelError
from vqonnx.graph import io
from vqonnx.graph.external import is_inside
from vqonnx.graph.io import load, save
from vqonnx.graph.lazy_read import without_large_tensors
from vqonnx.graph.proto import to_proto
from vqonnx.graph.wire import MalformedError, fields
from vqonnx.runtime.session import open_session

CASES = load_cases()


@pytest.fixture
def _everything_is_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io, "MAPPED_FROM", 0)
    monkeypatch.setattr(io, "_MAPPED_TENSOR", 64)


def written(folder: Path, weight: np.ndarray, name: str = "m.onnx") -> Path:
    rows, columns = weight.shape
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, rows])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, columns])
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="mm")
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(weight, "w")])
    path = folder / name
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("name", list(CASES))
def test_a_mapped_model_is_the_same_model(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    proto = CASES[name].build()
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in proto.graph.initializer):
        pytest.skip("it has a data file already")
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    plain = load(path)
    request.getfixturevalue("_everything_is_mapped")
    mapped = load(path)
    for value in plain.graph.initializers.values():
        tensor = mapped.graph.initializers[value.name or ""].const_value
        assert tensor is not None
        assert value.const_value is not None
        assert tensor.tobytes() == value.const_value.tobytes()
    assert to_proto(mapped) == to_proto(plain)


@pytest.mark.usefixtures("_everything_is_mapped")
def test_large_tensors_stay_in_the_file_and_run_from_there(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 9)).astype(np.float32)
    path = written(tmp_path, weight)
    model = load(path)
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert is_inside(tensor, path)
    assert tensor.raw is None  # not even mapped yet
    x = np.ones((1, 8), np.float32)
    (found,) = open_session(model).run(None, {"x": x})
    np.testing.assert_allclose(found, x @ weight, rtol=1e-5)


@pytest.mark.usefixtures("_everything_is_mapped")
def test_a_mapped_model_can_be_saved_over_itself(tmp_path: Path) -> None:
    weight = np.random.default_rng(1).standard_normal((8, 8)).astype(np.float32)
    path = written(tmp_path, weight)
    save(load(path), path)
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
    np.testing.assert_array_equal(numpy_helper.to_array(onnx.load(path).graph.initializer[0]), weight)


@pytest.mark.usefixtures("_everything_is_mapped")
@pytest.mark.parametrize("extra", [-4, 4])
def test_data_of_another_length_than_the_shape_says_are_refused(extra: int, tmp_path: Path) -> None:
    path = written(tmp_path, np.zeros((8, 8), np.float32))
    proto = onnx.load(path)
    proto.graph.initializer[0].raw_data = bytes(256 + extra)
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="'w'"):
        load(path)


@pytest.mark.usefixtures("_everything_is_mapped")
def test_a_file_that_was_cut_off_is_told_as_ever(tmp_path: Path) -> None:
    path = written(tmp_path, np.zeros((8, 8), np.float32))
    content = path.read_bytes()
    for length in range(1, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(ModelError, match=r"is not an ONNX model, or was cut off|it is not an ONNX model"):
            load(path)


@given(st.binary(max_size=60))
def test_bytes_are_fields_or_malformed(content: bytes) -> None:
    try:
        found = list(fields(memoryview(content), 0, len(content)))
    except MalformedError:
        return
    assert b"".join(content[field.start : field.stop] for field in found) == content


def test_small_tensors_are_left_where_they_are(tmp_path: Path) -> None:
    path = written(tmp_path, np.zeros((4, 4), np.float32))
    content = path.read_bytes()
    assert without_large_tensors(memoryview(content), "m.onnx", 1 << 16) == content
