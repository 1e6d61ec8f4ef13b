"""vqonnx.compat.quantize_static: names, places and fields that programs for onnxruntime.quantization look up."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper, parser

import vqonnx.compat as compat
from vqonnx.compat import QuantType
from vqonnx.runtime.session import open_session

FORK = """
    <ir_version: 8, opset_import: ["" : 18]>
    g (float[2,4] x) => (float[4,2] u, float[4,2] v %s) {
        t = Transpose <perm = [1, 0]> (x)
        u = Tanh (t)
        v = Tanh (t)
    }
"""
CONV = """
    <ir_version: 8, opset_import: ["" : 13]>
    g (float[1,2,5,5] x) => (float[1,3,5,5] y) {
        s = Sigmoid (x)
        y = Conv (s, w, b)
    }
"""


def model(text: str, constants: Mapping[str, np.ndarray] | None = None) -> onnx.ModelProto:
    made = parser.parse_model(text)
    for index, node in enumerate(made.graph.node):
        node.name = f"n{index}"
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in (constants or {}).items())
    return made


def conv() -> onnx.ModelProto:
    random = np.random.default_rng(3)
    weight, bias = random.normal(size=(3, 2, 1, 1)), random.normal(size=3)
    return model(CONV, {"w": weight.astype(np.float32), "b": bias.astype(np.float32)})


class Reader(compat.CalibrationDataReader):
    def __init__(self, given: onnx.ModelProto) -> None:
        shapes = {one.name: [d.dim_value for d in one.type.tensor_type.shape.dim] for one in given.graph.input}
        random = np.random.default_rng(0)
        types = {one.name: one.type.tensor_type.elem_type for one in given.graph.input}
        numbers = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16}
        feeds = [{name: random.uniform(-1, 1, n).astype(numbers[types[name]]) for name, n in shapes.items()}] * 3
        self.left: Iterator[dict[str, Any]] = iter(feeds)

    def get_next(self) -> dict[str, Any] | None:
        return next(self.left, None)


def quantized(folder: Path, given: onnx.ModelProto, **arguments: Any) -> onnx.ModelProto:
    types = {"activation_type": QuantType.QUInt8, **arguments}
    compat.quantize_static(given, folder / "q.onnx", Reader(given), **types)
    open_session(folder / "q.onnx")
    return onnx.load(folder / "q.onnx")


def initializers(found: onnx.ModelProto) -> dict[str, TensorProto]:
    return {one.name: one for one in found.graph.initializer}


def operators(found: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in found.graph.node]


def chain(found: onnx.ModelProto, name: str) -> list[str]:
    """The zero points of the pairs before a tensor, from the last to the first."""
    makers = {output: node for node in found.graph.node for output in node.output}
    told = []
    while name in makers and makers[name].op_type in ("QuantizeLinear", "DequantizeLinear"):
        told.append(makers[name].input[2])
        name = makers[name].input[0]
    return told


def test_element_types_may_be_onnx_numbers(tmp_path: Path) -> None:
    found = initializers(quantized(tmp_path, conv(), activation_type=TensorProto.UINT16, weight_type=TensorProto.INT8))
    assert found["x_zero_point"].data_type == TensorProto.UINT16
    assert found["w_zero_point"].data_type == TensorProto.INT8
    with pytest.raises(ValueError, match="7 is no QuantType"):
        quantized(tmp_path, conv(), activation_type=TensorProto.INT64)


def test_constants_come_first_and_numbers_lie_in_typed_fields(tmp_path: Path) -> None:
    result = quantized(tmp_path, conv(), per_channel=False)
    assert operators(result)[:3] == ["DequantizeLinear", "DequantizeLinear", "QuantizeLinear"]
    found = initializers(result)
    assert found["x_scale"].float_data[0] > 0
    assert list(found["w_zero_point"].int32_data) == [0]
    assert list(found["b_zero_point"].int32_data) == [0]
    assert numpy_helper.to_array(found["b_scale"]).shape == (1,)


def test_four_bit_numbers_lie_in_typed_fields(tmp_path: Path) -> None:
    found = initializers(quantized(tmp_path, conv(), weight_type=QuantType.QInt4))
    assert found["w_zero_point"].data_type == TensorProto.INT4
    assert list(found["w_zero_point"].int32_data) == [0]


def test_what_is_moved_has_the_scale_of_its_source(tmp_path: Path) -> None:
    options = {"ForceQuantizeNoInputCheck": True}
    result = quantized(tmp_path, model(FORK % ""), op_types_to_quantize=["Transpose", "Tanh"], extra_options=options)
    assert not {"t_scale", "t_zero_point"} & set(initializers(result))
    tanh = next(node for node in result.graph.node if node.op_type == "Tanh")
    assert chain(result, tanh.input[0]) == ["x_zero_point", "x_zero_point"]


@pytest.mark.parametrize(
    ("readers", "output", "dequantizers", "ends"),
    [
        (["n1", "n2"], "", 5, None),
        (["n2"], "", 6, None),
        (["n1", "n2"], ", float[4,2] t", 5, ["t_zero_point_convert"] * 2),
        (["n2"], ", float[4,2] t", 6, ["x_zero_point"] * 2),
        (None, ", float[4,2] t", 5, ["t_zero_point_convert"] * 2),
    ],
)
def test_conversions_stand_behind_a_dequantizer_of_their_own(
    tmp_path: Path, readers: list[str] | None, output: str, dequantizers: int, ends: list[str] | None
) -> None:
    convert = {"quant_type": QuantType.QUInt16, **({} if readers is None else {"recv_nodes": set(readers)})}
    overrides = {"t": [{"quant_type": QuantType.QUInt8, "convert": convert}]}
    result = quantized(
        tmp_path,
        model(FORK % output),
        op_types_to_quantize=["Transpose", "Tanh"],
        extra_options={"ForceQuantizeNoInputCheck": True, "TensorQuantOverrides": overrides},
    )
    onnx.checker.check_model(result, full_check=True)
    assert operators(result).count("QuantizeLinear") == 5
    assert operators(result).count("DequantizeLinear") == dequantizers
    assert initializers(result)["t_zero_point_convert"].data_type == TensorProto.UINT16
    makers = {node.name: node for node in result.graph.node}
    assert chain(result, makers["n2"].input[0])[:4] == ["t_zero_point_convert"] * 2 + ["x_zero_point"] * 2
    if ends is not None:
        assert chain(result, "t")[:2] == ends
    readers_of = [name for node in result.graph.node for name in node.input]
    single = [node.output[0] for node in result.graph.node if node.op_type == "DequantizeLinear"]
    converters = [node.input[0] for node in result.graph.node if node.op_type == "QuantizeLinear"]
    assert all(readers_of.count(name) == 1 for name in single if name in converters)


def test_an_output_that_nothing_reads_is_converted(tmp_path: Path) -> None:
    made = model('<ir_version: 8, opset_import: ["" : 18]> g (float[2,4] x) => (float[2,4] y) { y = Sigmoid (x) }')
    overrides = {"y": [{"quant_type": QuantType.QUInt16, "convert": {"quant_type": QuantType.QUInt8}}]}
    result = quantized(tmp_path, made, extra_options={"TensorQuantOverrides": overrides})
    assert chain(result, "y") == ["y_zero_point_convert"] * 2 + ["y_zero_point"] * 2
    assert initializers(result)["y_zero_point"].data_type == TensorProto.UINT16


STORED = """
    <ir_version: 10, opset_import: ["" : 21]>
    g (%(type)s[%(input)s] x) => (%(type)s[1,3,3,3] y) {
        d = DequantizeLinear <axis = 0> (q, s, z)
        y = Conv (%(operands)s, b)
    }
"""


@pytest.mark.parametrize("kind", ["float", "float16"])
@pytest.mark.parametrize(
    ("shape", "operands", "channels"),
    [((3, 2, 3, 3), "x, d", False), ((3, 2, 3, 3), "x, d", True), ((1, 2, 5, 5), "d, x", False)],
)
def test_stored_codes_stay_and_the_rest_is_completed(
    tmp_path: Path, kind: str, shape: tuple[int, ...], operands: str, channels: bool
) -> None:
    is_weight = operands == "x, d"
    dtype = np.float16 if kind == "float16" else np.float32
    random = np.random.default_rng(1)
    scale = random.uniform(0.01, 0.02, shape[:1] if channels else ()).astype(dtype)
    zero = np.zeros(scale.shape, np.int8)
    codes = random.integers(-127, 128, shape).astype(np.int8)
    bias = np.array([3, -1e-4, 0.5], dtype)
    other = "1,2,5,5" if is_weight else "3,2,3,3"
    made = model(
        STORED % {"type": kind, "input": other, "operands": operands}, {"q": codes, "s": scale, "z": zero, "b": bias}
    )
    result = quantized(tmp_path, made, op_types_to_quantize=["Conv"])
    assert operators(result).count("QuantizeLinear") == 2
    assert operators(result).count("DequantizeLinear") == 4
    found = initializers(result)
    product = next(node for node in result.graph.node if node.op_type == "Conv")
    assert chain(result, product.input[1 if is_weight else 0]) == ["z"]
    np.testing.assert_array_equal(numpy_helper.to_array(found["q"]), codes)
    written = numpy_helper.to_array(found["b_quantized"]) * numpy_helper.to_array(found["b_scale"]).astype(np.float64)
    np.testing.assert_allclose(written, bias.astype(np.float64), rtol=1e-3, atol=3e-4)
    feed = Reader(made).get_next()
    onnx.save(made, tmp_path / "float.onnx")
    given, expected = (open_session(tmp_path / name).run(None, feed)[0] for name in ("q.onnx", "float.onnx"))
    assert np.abs(given - expected).max() < 0.05 * np.abs(expected).max()


def test_a_clip_that_gave_zeros_alone_keeps_its_bounds(tmp_path: Path) -> None:
    text = CONV.replace("s = Sigmoid (x)", "s = Sigmoid (x) c = Conv (s, w, b)").replace(
        "Conv (s, w, b)\n    }", "Clip (c, l, h)\n    }"
    )
    dead = {"w": -np.ones((3, 2, 1, 1), np.float32), "b": np.zeros(3, np.float32)}
    ends = {"l": np.array(0, np.float32), "h": np.array(0.5, np.float32)}
    result = quantized(tmp_path, model(text, {**dead, **ends}))
    assert "Clip" not in operators(result)
    found = initializers(result)
    np.testing.assert_allclose(numpy_helper.to_array(found["y_scale"]), 0.5 / 255, rtol=1e-6)
    assert numpy_helper.to_array(found["y_zero_point"]) == 0


@pytest.mark.parametrize(
    ("element", "reduce_range", "codes", "steps", "zero"),
    [
        (QuantType.QInt4, False, (-8, 7), 15, 0),
        (QuantType.QInt4, True, (-8, 7), 7, 0),
        (QuantType.QUInt4, True, (0, 15), 7, 4),
        (QuantType.QInt8, False, (-128, 127), 254, 0),
        (QuantType.QUInt8, True, (0, 255), 127, 64),
    ],
)
def test_symmetric_weights_are_spread_and_saturate_as_by_the_peer(
    tmp_path: Path, element: QuantType, reduce_range: bool, codes: tuple[int, int], steps: int, zero: int
) -> None:
    made = conv()
    weight = numpy_helper.to_array(initializers(made)["w"])
    options = {"per_channel": True, "reduce_range": reduce_range, "weight_type": element}
    found = initializers(quantized(tmp_path, made, **options))
    scale = (2 * np.abs(weight).max(axis=(1, 2, 3)).astype(np.float64) / steps).astype(np.float32)
    expected = np.clip(np.rint(weight / scale.reshape(-1, 1, 1, 1)) + zero, *codes)
    np.testing.assert_array_equal(numpy_helper.to_array(found["w_scale"]), scale)
    np.testing.assert_array_equal(numpy_helper.to_array(found["w_zero_point"]).astype(int), zero)
    np.testing.assert_array_equal(numpy_helper.to_array(found["w_quantized"]).astype(int), expected)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_in_no_range(tmp_path: Path, broken: float) -> None:
    made = conv()
    feed = Reader(made).get_next()
    assert feed is not None
    ends = feed["x"].min(), feed["x"].max()
    feed["x"][0, 0, 0, 0] = broken
    with pytest.warns(RuntimeWarning, match=r"tensors held NaN or infinite elements.*x \(1\)"):
        compat.quantize_static(made, tmp_path / "q.onnx", [feed], activation_type=QuantType.QUInt8)
    scale = numpy_helper.to_array(initializers(onnx.load(tmp_path / "q.onnx"))["x_scale"])
    np.testing.assert_allclose(scale * 255, ends[1] - ends[0], rtol=0.05)


def test_a_moved_value_has_the_type_that_the_mover_reads(tmp_path: Path) -> None:
    text = FORK.replace("v = Tanh (t)", "v = Transpose <perm = [0, 1]> (t)") % ""
    convert = {"quant_type": QuantType.QUInt16, "recv_nodes": {"n2"}}
    options = {
        "ForceQuantizeNoInputCheck": True,
        "TensorQuantOverrides": {"t": [{"quant_type": QuantType.QInt8, "convert": convert}]},
    }
    result = quantized(tmp_path, model(text), op_types_to_quantize=["Transpose", "Tanh"], extra_options=options)
    types = {name: one.data_type for name, one in initializers(result).items()}
    makers = {node.name: node for node in result.graph.node}
    assert types[chain(result, makers["n1"].input[0])[0]] == TensorProto.INT8
    assert types[chain(result, "v")[0]] == TensorProto.UINT16


@pytest.mark.parametrize(("beside", "clips"), [("c", 1), ("y", 1), ("x", 0)])
def test_a_clip_stays_beside_what_is_converted(tmp_path: Path, beside: str, clips: int) -> None:
    text = CONV.replace("s = Sigmoid (x)", "c = Conv (x, w, b)").replace("Conv (s, w, b)", "Relu (c)")
    constants = {"w": np.ones((3, 2, 1, 1), np.float32), "b": np.zeros(3, np.float32)}
    overrides = {beside: [{"quant_type": QuantType.QUInt16, "convert": {"quant_type": QuantType.QUInt8}}]}
    result = quantized(tmp_path, model(text, constants), extra_options={"TensorQuantOverrides": overrides})
    assert operators(result).count("Relu") == clips


def test_a_clip_behind_what_is_moved_goes(tmp_path: Path) -> None:
    text = CONV.replace("s = Sigmoid (x)", "c = Conv (x, w, b) m = MaxPool <kernel_shape = [1, 1]> (c)")
    constants = {"w": np.ones((3, 2, 1, 1), np.float32), "b": np.array([-1, 0, 1], np.float32)}
    made = model(text.replace("Conv (s, w, b)", "Relu (m)"), constants)
    result = quantized(tmp_path, made)
    assert "Relu" not in operators(result)
    feed = Reader(made).get_next()
    onnx.save(made, tmp_path / "float.onnx")
    given, expected = (open_session(tmp_path / name).run(None, feed)[0] for name in ("q.onnx", "float.onnx"))
    assert np.abs(given - expected).max() < 0.02 * np.abs(expected).max()


def test_a_float_node_that_is_named_reads_the_converted_form(tmp_path: Path) -> None:
    convert = {"quant_type": QuantType.QUInt16, "recv_nodes": {"n2"}}
    options = {"TensorQuantOverrides": {"t": [{"quant_type": QuantType.QUInt8, "convert": convert}]}}
    text = FORK.replace("t = Transpose <perm = [1, 0]> (x)", "t = Add (x, x)").replace("float[4,2]", "float[2,4]") % ""
    result = quantized(tmp_path, model(text), op_types_to_quantize=["Add"], extra_options=options)
    makers = {node.name: node for node in result.graph.node}
    assert chain(result, makers["n1"].input[0]) == ["t_zero_point"] * 2
    assert chain(result, makers["n2"].input[0]) == ["t_zero_point_convert"] * 2 + ["t_zero_point"] * 2
