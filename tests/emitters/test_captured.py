"""What a body captures behind a data mover arrives quantized: ONNX Runtime aborts the process otherwise."""

import numpy as np
import onnx
import onnx.parser
import pytest

from tests.quantizers.flow import maker, run, run_reference
from vqonnx.emitters.captured import quantize_captured
from vqonnx.graph.io import load
from vqonnx.graph.proto import to_proto

MOVERS = {
    "Reshape": "r = Reshape (d, k)",
    "Transpose": "r = Transpose <perm = [0, 2, 1]> (d)",
    "Squeeze": "r = Squeeze (d, one)",
    "Unsqueeze": "r = Unsqueeze (d, one)",
    "Slice": "r = Slice (d, zero, two, two)",
    "MaxPool": "r = MaxPool <kernel_shape = [2]> (d)",
    "a chain": "t = Unsqueeze (d, one) r = Squeeze (t, one)",
    "read outside too": "r = Reshape (d, k) w = Exp (r)",
    "behind an Identity": "t = Identity (d) r = Squeeze (t, one)",
}


def captured(moves: str) -> onnx.ModelProto:
    """Q -> DQ -> data mover -> what both bodies of an If read."""
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["": 17]>
    captured (float[N, 1, 8] x, bool flag) => (float y)
    <float s = {{0.1}}, uint8 z = {{128}}, int64[2] k = {{0, -1}}, int64[1] zero = {{0}}, int64[1] one = {{1}},
     int64[1] two = {{2}}> {{
        q = QuantizeLinear (x, s, z)
        d = DequantizeLinear (q, s, z)
        {moves}
        y = If (flag) <
            then_branch = yes () => (float a) {{ a = Abs (r) }},
            else_branch = no () => (float b) {{ b = Neg (r) }}
        >
    }}""")
    for value in (model.graph.output[0], *(body.g.output[0] for body in model.graph.node[-1].attribute)):
        value.type.tensor_type.ClearField("shape")
    return model


@pytest.mark.parametrize("moves", MOVERS.values(), ids=MOVERS)
def test_the_numbers_stay_and_the_model_loads(moves: str) -> None:
    before, model = captured(moves), load(captured(moves))
    assert quantize_captured(model) == 1
    assert quantize_captured(model) == 0
    after = to_proto(model)
    bodies = [attribute.g for attribute in after.graph.node[-1].attribute]
    (read,) = {name for body in bodies for node in body.node for name in node.input}
    assert maker(after, read).op_type == "DequantizeLinear"
    for flag in (True, False):
        feed = {"x": np.random.default_rng(0).normal(0, 5, (3, 1, 8)).astype(np.float32), "flag": np.array(flag)}
        expected = run_reference(before, feed)["y"]
        for optimize in (False, True):
            np.testing.assert_array_equal(run(after, feed, optimize=optimize)["y"], expected)


@pytest.mark.parametrize("moves", ["r = Relu (d)", "r = Gather <axis = 2> (d, zero)", "r = Reshape (x, k)"])
def test_other_captured_values_stay(moves: str) -> None:
    model = load(captured(moves))
    assert quantize_captured(model) == 0
