import numpy as np
import onnx.parser
import onnx_ir as ir
import pytest

from models.build import build
from vqonnx.errors import ModelError
from vqonnx.graph import edit, walk
from vqonnx.graph.inference import infer_missing
from vqonnx.graph.io import load

TEXT = """<ir_version: 10, opset_import: ["": 17]>
g (bool c, float[2, 512] x) => (float[2, 4] y) {
  a = MatMul (x, w)
  y = If (c) <
    then_branch = t () => (float[2, 4] p) { q = Neg (a) p = Abs (q) },
    else_branch = e () => (float[2, 4] r) { r = Identity (a) }>
}
"""


def untyped() -> ir.Model:
    proto = onnx.parser.parse_model(TEXT)
    proto.graph.initializer.append(ir.serde.serialize_tensor(ir.Tensor(np.ones((512, 4), np.float32), name="w")))
    return load(proto)


def test_types_and_shapes_are_filled_in_everywhere():
    model = untyped()
    weight = model.graph.initializers["w"].const_value
    infer_missing(model)
    values = walk.values_by_name(model)
    for name in ("a", "q"):
        assert (values[name].dtype, values[name].shape) == (ir.DataType.FLOAT, [2, 4])
    assert model.graph.initializers["w"].const_value is weight


def test_what_is_stated_stays():
    model = untyped()
    a = walk.values_by_name(model)["a"]
    a.type, a.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["N", 4])
    infer_missing(model)
    assert a.shape == ir.Shape(["N", 4])


def test_contradictions_are_refused(monkeypatch):
    model = untyped()
    model.graph.inputs[1].dtype = ir.DataType.INT64
    edit.add_initializer(model.graph, "other", np.ones(2, np.float32))

    def refuse(_: onnx.ModelProto, **_options: bool) -> onnx.ModelProto:
        raise onnx.shape_inference.InferenceError("types differ")

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", refuse)
    with pytest.raises(ModelError, match="the types of graph 'g' contradict each other: types differ"):
        infer_missing(model)


def test_nodes_that_cannot_take_their_inputs_are_refused_when_asked():
    model = load(build("g (float[2, 3] x, float[4, 5] w) => (float[2, 5] y) { a = Relu (x) y = MatMul (a, w) }"))
    infer_missing(model)
    model.graph[0].outputs[0].shape = None
    with pytest.raises(ModelError, match="contradict"):
        infer_missing(model, strict=True)
