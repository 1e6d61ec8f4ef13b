import numpy as np
import onnx
import onnx_ir as ir
import pytest

from vqonnx.errors import ModelError
from vqonnx.graph.edit import add_initializer
from vqonnx.graph.io import load, save
from vqonnx.graph.packed import computed_tensor, packed_data

TYPES = [ir.DataType.INT2, ir.DataType.UINT2, ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT8, ir.DataType.UINT8]


def model_with(tensor):
    given = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    graph = ir.Graph([given], [given], nodes=[], opset_imports={"": 21}, name="g")
    add_initializer(graph, "w", tensor)
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_bytes_are_read_as_they_were_computed(rng, tmp_path, dtype, external):
    size = 2001 * 3  # an odd number of codes, and too large to stay in the .onnx file
    data = rng.integers(0, 256, -(-size * dtype.bitwidth // 8), dtype=np.uint8)
    if dtype.bitwidth < 8:
        data[-1] &= (1 << (size * dtype.bitwidth % 8)) - 1  # what is left of the last byte is 0
    save(model_with(computed_tensor(lambda: data, dtype, (2001, 3), "w")), tmp_path / "m.onnx", external=external)
    tensor = load(tmp_path / "m.onnx").graph.initializers["w"].const_value
    assert (tensor.dtype, tuple(tensor.shape)) == (dtype, (2001, 3))
    read = packed_data(tensor)
    np.testing.assert_array_equal(read, data)
    if external:
        assert isinstance(tensor, ir.ExternalTensor)
        assert not read.flags.owndata
    assert not read.flags.writeable


def test_every_reading_computes_again():
    calls = []
    tensor = computed_tensor(lambda: calls.append(1) or np.arange(6, dtype=np.float32), ir.DataType.FLOAT, (2, 3))
    np.testing.assert_array_equal(tensor.numpy(), [[0, 1, 2], [3, 4, 5]])
    assert tensor.tobytes() == np.arange(6, dtype=np.float32).tobytes()
    assert len(calls) == 2


def test_a_damaged_tensor_is_told():
    proto = onnx.TensorProto(name="w", data_type=onnx.TensorProto.UINT8, dims=[8], raw_data=bytes(7))
    with pytest.raises(ModelError, match="takes 8 bytes, but the model holds 7"):
        packed_data(ir.serde.deserialize_tensor(proto))
