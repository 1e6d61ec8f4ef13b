"""The quantizer objects, registries and the overrides helper of onnxruntime.quantization's submodules."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from tests.versions import since
from vqonnx.compat import QuantizationMode, QuantType, registry
from vqonnx.compat.base_quantizer import QuantizationParams
from vqonnx.compat.calibrate import CalibrationMethod, TensorData, TensorsData
from vqonnx.compat.onnx_quantizer import ONNXQuantizer
from vqonnx.compat.qdq_quantizer import QDQQuantizer
from vqonnx.compat.tensor_quant_overrides import QuantTypeInfo, TensorQuantOverridesHelper
from vqonnx.errors import OptionError

peer_registry: Any = pytest.importorskip("onnxruntime.quantization.registry")


def model() -> onnx.ModelProto:
    made = parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 13]>
        g (float[2,8] x) => (float[2,6] y) {h = MatMul (x, w) y = Add (h, b)}
    """)
    for node in made.graph.node:
        node.name = node.op_type
    random = np.random.default_rng(1)
    for name, shape in (("w", (8, 6)), ("b", (6,))):
        made.graph.initializer.append(numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name))
    return made


def operators(found: onnx.ModelProto) -> list[str]:
    return sorted(node.op_type for node in found.graph.node)


RANGES = dict.fromkeys(("x", "h", "y"), (-2.0, 2.0))
TYPES = (QuantType.QInt8, QuantType.QUInt8)


def test_a_quantizer_takes_ranges_in_any_form() -> None:
    arrays = {name: TensorData(lowest=np.float32(-2), highest=np.float32(2)) for name in RANGES}
    results = []
    for ranges in (RANGES, TensorsData(CalibrationMethod.MinMax, arrays)):
        quantizer = QDQQuantizer(model(), False, False, *TYPES, ranges, [], [], ["MatMul"])
        assert operators(quantizer.model.model) == ["Add", "MatMul"]
        results.append(quantizer.quantize_model())
        assert quantizer.model.model is results[-1]
    assert results[0] == results[1]
    assert operators(results[0]) == ["Add", *["DequantizeLinear"] * 3, "MatMul", *["QuantizeLinear"] * 2]


def test_integer_operators_with_ranges_and_without() -> None:
    arguments = (*TYPES, RANGES, [], [], [])
    static = ONNXQuantizer(model(), False, False, QuantizationMode.QLinearOps, True, *arguments)
    assert operators(static.quantize_model()) == ["DequantizeLinear", "QLinearAdd", "QLinearMatMul", "QuantizeLinear"]
    dynamic = ONNXQuantizer(model(), False, False, QuantizationMode.IntegerOps, False, *TYPES, None, [], [], [])
    assert "MatMulInteger" in operators(dynamic.quantize_model())
    assert "MatMulInteger" in operators(dynamic.model.model)


@pytest.mark.parametrize("name", ["QDQRegistry", "QLinearOpsRegistry", "IntegerOpsRegistry"])
def test_registries_have_the_peers_operators(name: str) -> None:
    since("1.31", "Flatten as an operator of its quantizer")
    theirs, ours = set(getattr(peer_registry, name)), set(getattr(registry, name))
    if name == "QDQRegistry":  # the peer adds those of the other registry when it quantizes
        theirs |= set(peer_registry.QLinearOpsRegistry)
    assert ours == theirs


def test_params_check_their_values() -> None:
    params = QuantizationParams(scale=np.float32(0.5), zero_point=np.int8(0), axis=None)
    assert (params["scale"], params.get("none", 3), len(params), set(params)) == (
        0.5, 3, 3, {"scale", "zero_point", "axis"}
    )  # fmt: skip
    with pytest.raises(ValueError, match="scale must be float32 or float16"):
        QuantizationParams(scale=np.float64(0.5))
    with pytest.raises(TypeError, match="zero_point takes a number, text or array, got list"):
        QuantizationParams(zero_point=[1])


# ---- overrides ----


def test_overrides_answer_what_a_node_reads() -> None:
    convert = {"quant_type": QuantType.QUInt16, "recv_nodes": {"Add"}}
    helper = TensorQuantOverridesHelper(
        {"h": [{"quant_type": QuantType.QUInt8, "convert": convert}], "w": [{"axis": 1, "symmetric": True}]}
    )
    assert helper.get_node_output_qtype_info("h", QuantType.QInt8).quant_type is QuantType.QUInt8
    assert helper.get_node_input_qtype_info("h", "Add", None).quant_type is QuantType.QUInt16
    assert helper.get_node_input_qtype_info("h", "MatMul", None).quant_type is QuantType.QUInt8
    assert helper.get_node_input_qtype_info("w", "MatMul", QuantType.QInt8) == QuantTypeInfo(
        QuantType.QInt8, None, None, 1
    )
    assert helper.get_quant_types() == {QuantType.QUInt8, QuantType.QUInt16}
    assert (helper.has_per_channel_overrides("w"), helper.has_per_tensor_overrides("h")) == (True, True)
    with pytest.raises(OptionError, match="has entries by channel"):
        helper.get_per_tensor_overrides("w")


def test_overrides_change_in_place_or_not_at_all() -> None:
    raw: dict[str, list[dict[str, Any]]] = {"h": [{"symmetric": True}]}
    helper = TensorQuantOverridesHelper(raw)
    assert not helper.update_tensor_overrides("h", {"symmetric": False, "rmin": 0.0}, overwrite=False)
    assert raw == {"h": [{"symmetric": True}]}
    assert helper.update_tensor_overrides("y", {"symmetric": False})
    assert raw["y"] == [{"symmetric": False}]


@pytest.mark.parametrize(
    ("entries", "wrong"),
    [
        ({"h": [{"symmetric": True}]}, None),
        ({"q": [{"symmetric": True}]}, "'q' is not present in the model"),
        ({"h": [{"axis": 0}]}, "only initializers have entries by channel"),
        ({"w": [{"convert": {"quant_type": QuantType.QInt8}}]}, "is an initializer, which has no 'convert'"),
        ({"h": [{"convert": {"quant_type": QuantType.QUInt8}}]}, "converted to the type that it has"),
        ({"h": [{"scale": 1.0}]}, "Must provide both 'scale' and 'zero_point'"),
        ({"h": [{"symetric": True}]}, "did you mean 'symmetric'"),
    ],
)
def test_overrides_are_held_to_the_model(entries: dict[str, Any], wrong: str | None) -> None:
    initializers = {tensor.name: tensor for tensor in model().graph.initializer}
    valid, told = TensorQuantOverridesHelper(entries).is_valid(initializers, {"x", "h", "y"}, QuantType.QUInt8)
    assert valid is (wrong is None)
    assert wrong is None or (told is not None and wrong in told)
