from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from vqonnx.errors import ModelError
from vqonnx.graph import edit, io, stream
from vqonnx.graph.io import load, save
from vqonnx.graph.proto import serialized, to_proto


@pytest.fixture(autouse=True)
def _small_tensors_are_streamed(monkeypatch):
    monkeypatch.setattr(io, "INLINE_BELOW", 128)


def chain() -> ir.Model:
    """y = (x + u) * v over 64 floats."""
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[64] x) => (float[64] y) { a = Add (x, u) y = Mul (a, v) }'
    )
    for name in "uv":
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(64, dtype=np.float32), name))
    return load(proto)


def test_more_than_one_message_holds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "PROTO_LIMIT", 520)
    with pytest.raises(
        ModelError, match=r"takes \d+ bytes and does not fit into one message of 520. Save it with external data"
    ):
        save(chain(), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_what_protobuf_refuses_is_told_in_ours(monkeypatch):
    def refuse(**_: object) -> bytes:
        raise ValueError("Message exceeds maximum size")

    monkeypatch.setattr(ir.serde, "serialize_model", lambda _: SimpleNamespace(SerializeToString=refuse))
    with pytest.raises(ModelError, match=r"one message of 2,147,483,647 bytes: Message exceeds maximum size"):
        serialized(chain(), {})


@pytest.mark.parametrize("external", [False, True])
def test_a_tensor_with_too_little_data_is_refused(tmp_path, external):
    model = chain()
    damaged = ir.serde.serialize_tensor(model.graph.initializers["u"].const_value)
    damaged.raw_data = damaged.raw_data[:-4]
    model.graph.initializers["u"].const_value = ir.serde.TensorProtoTensor(damaged)
    with pytest.raises(
        ModelError, match=r"tensor 'u' of shape \(64,\) and type FLOAT takes 256 bytes, but .* holds 252"
    ):
        save(model, tmp_path / "m.onnx", external=external)
    assert not list(tmp_path.iterdir())


def test_streamed_tensors_read_back_as_protobuf_wrote_them(tmp_path):
    model = chain()
    for name, dtype in [("i4", ir.DataType.INT4), ("bf", ir.DataType.BFLOAT16), ("b", ir.DataType.BOOL)]:
        edit.add_initializer(model.graph, name, (np.arange(1001) % 2).astype(dtype.numpy()))
    model.graph.initializers["i4"].const_value.metadata_props["k"] = "v"
    saved = onnx.load(save(model, tmp_path / "m.onnx").path)
    expected = {tensor.name: tensor for tensor in to_proto(model).graph.initializer}
    assert {tensor.name: tensor for tensor in saved.graph.initializer} == expected
