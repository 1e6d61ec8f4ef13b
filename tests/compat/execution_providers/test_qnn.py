"""The tools for the QNN execution provider."""

import copy
import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vqonnx.compat.execution_providers.qnn import get_qnn_qdq_config, qnn_preprocess_model
from vqonnx.compat.execution_providers.qnn.fusion_lpnorm import FusionLpNormalization
from vqonnx.compat.execution_providers.qnn.fusion_spacetodepth import FusionSpaceToDepth
from vqonnx.compat.execution_providers.qnn.mixed_precision_overrides_utils import (
    MixedPrecisionTensorQuantOverridesFixer,
)
from vqonnx.compat.fusions import FusionGelu, FusionLayerNormalization, ReplaceUpsampleWithResize
from vqonnx.compat.onnx_model import ONNXModel
from vqonnx.errors import OptionError
from vqonnx.quantizers.overrides import parse_overrides
from vqonnx.quantizers.types import QuantType
from vqonnx.runtime.session import open_session

U8, U16, S8, S16 = QuantType.QUInt8, QuantType.QUInt16, QuantType.QInt8, QuantType.QInt16
node = helper.make_node


def info(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def make(nodes, inputs, outputs, constants=(), opset=18):
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in dict(constants).items()]
    graph = helper.make_graph(
        nodes, "graph", [info(*one) for one in inputs.items()], [info(*one) for one in outputs.items()], initializers
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def ops(model):
    return [one.op_type for one in model.graph.node]


def run(path, **feeds):
    return open_session(path).run(None, feeds)


F32 = np.float32
WRITTEN_OUT = [
    node("Div", ["x", "root"], ["scaled"]),
    node("Erf", ["scaled"], ["erf"]),
    node("Add", ["erf", "one"], ["more"]),
    node("Mul", ["x", "more"], ["twice"]),
    node("Mul", ["twice", "half"], ["gelu"]),
    node("ReduceL2", ["gelu", "axes"], ["length"], keepdims=1),
    node("Clip", ["length", "tiny"], ["floored"]),
    node("Div", ["gelu", "floored"], ["unit"]),
    node("ReduceMean", ["unit", "axes"], ["mean"]),
    node("Sub", ["unit", "mean"], ["centred"]),
    node("Pow", ["centred", "two"], ["squared"]),
    node("ReduceMean", ["squared", "axes"], ["variance"]),
    node("Add", ["variance", "tiny"], ["safe"]),
    node("Sqrt", ["safe"], ["deviation"]),
    node("Div", ["centred", "deviation"], ["normal"]),
    node("Mul", ["normal", "gain"], ["y"]),
]
CONSTANTS = {
    "root": F32(math.sqrt(2)),
    "one": F32(1),
    "half": F32(0.5),
    "two": F32(2),
    "tiny": F32(1e-12),
    "axes": np.array([-1]),
    "gain": F32([1, 2, 3, 4]),
}


def written_out(opset=18):
    return make(WRITTEN_OUT, {"x": ("N", 4)}, {"y": ("N", 4)}, CONSTANTS, opset)


def test_what_is_written_out_is_fused(tmp_path, rng):
    model = written_out()
    before = model.SerializeToString(deterministic=True)
    assert qnn_preprocess_model(model, tmp_path / "out.onnx", fuse_layernorm=True)
    found = onnx.load(tmp_path / "out.onnx")
    assert ops(found) == ["Gelu", "LpNormalization", "LayerNormalization"]
    assert all(one.name for one in found.graph.node)
    assert {one.domain for one in found.opset_import} == {"", "com.microsoft"}
    onnx.save(model, tmp_path / "in.onnx")
    x = rng.normal(size=(3, 4)).astype(F32)
    expected, result = (run(tmp_path / name, x=x)[0] for name in ("in.onnx", "out.onnx"))
    np.testing.assert_allclose(result, expected, atol=1e-5)
    assert model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize(
    ("fusion", "operator"),
    [
        (FusionGelu, "Gelu"),
        (FusionLpNormalization, "LpNormalization"),
        (FusionLayerNormalization, "LayerNormalization"),
    ],
)
def test_fusions_change_the_model_that_they_are_given(fusion, operator):
    model = ONNXModel(written_out())
    assert fusion(model).apply()
    assert ops(model.model).count(operator) == 1
    assert all(one.name for one in model.nodes())
    before = model.model.SerializeToString(deterministic=True)
    assert not fusion(model).apply()
    assert model.model.SerializeToString(deterministic=True) == before


def space_to_depth(first_order=(0, 1, 2, 4, 3, 5)):
    shapes = {"a": [1, 3, 2, 2, 3, 2], "b": [1, 3, 6, 4], "c": [1, 3, 4, 2, 3], "d": [1, 12, 2, 3]}
    nodes = [
        node("Reshape", ["x", "a"], ["1"]),
        node("Transpose", ["1"], ["2"], perm=first_order),
        node("Reshape", ["2", "b"], ["3"]),
        node("Transpose", ["3"], ["4"], perm=[0, 1, 3, 2]),
        node("Reshape", ["4", "c"], ["5"]),
        node("Transpose", ["5"], ["6"], perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["6", "d"], ["y"]),
    ]
    return make(nodes, {"x": [1, 3, 4, 6]}, {"y": [1, 12, 2, 3]}, {k: np.array(v) for k, v in shapes.items()})


def test_space_to_depth_is_found_in_its_own_order_only(tmp_path):
    x = np.arange(72, dtype=F32).reshape(1, 3, 4, 6)
    onnx.save(space_to_depth(), tmp_path / "in.onnx")
    expected = run(tmp_path / "in.onnx", x=x)[0]
    assert qnn_preprocess_model(space_to_depth(), tmp_path / "out.onnx")
    assert ops(onnx.load(tmp_path / "out.onnx")) == ["SpaceToDepth"]
    np.testing.assert_array_equal(run(tmp_path / "out.onnx", x=x)[0], expected)
    assert not FusionSpaceToDepth(ONNXModel(space_to_depth((0, 1, 4, 2, 3, 5)))).apply()


def test_upsample_is_replaced_in_place():
    nodes = [node("Upsample", ["x", "scales"], ["y"])]
    model = ONNXModel(make(nodes, {"x": [1, 1, 2, 2]}, {"y": [1, 1, 4, 4]}, {"scales": F32([1, 1, 2, 2])}, 9))
    assert ReplaceUpsampleWithResize(model, 9).apply()
    assert ops(model.model) == ["Resize"]


def test_borders_shapes_and_defaults_are_changed_as_asked(tmp_path):
    nodes = [node("Add", ["x", "w"], ["h"]), node("Abs", ["h"], ["y"])]
    model = make(nodes, {"x": ("N", 2, "L"), "w": [2, 1]}, {"y": ("N", 2, "L")}, {"w": F32([[1], [-9]])})
    assert qnn_preprocess_model(
        model,
        tmp_path / "out.onnx",
        exclude_initializer_from_input=True,
        inputs_to_make_channel_last=["x"],
        outputs_to_make_channel_last=["y"],
        dynamic_input_shapes=[("x", "1,2,5")],
    )
    found = onnx.load(tmp_path / "out.onnx")
    assert [one.name for one in found.graph.input] == ["x"]
    assert sorted(ops(found)) == ["Abs", "Add", "Transpose", "Transpose"]
    x = np.arange(10, dtype=F32).reshape(1, 5, 2)
    np.testing.assert_array_equal(run(tmp_path / "out.onnx", x=x)[0], np.abs(x + F32([1, -9])))


def test_without_a_change_nothing_is_written(tmp_path):
    model = make([node("Neg", ["x"], ["y"], "neg")], {"x": [1]}, {"y": [1]})
    assert not qnn_preprocess_model(model, tmp_path / "out.onnx")
    assert not any(tmp_path.iterdir())


def test_wrong_arguments_of_preprocessing_are_refused(tmp_path):
    model = make([node("Neg", ["x"], ["y"], "neg")], {"x": [1, 2, 3]}, {"y": [1, 2, 3]})
    with pytest.raises(ValueError, match="'z' is not a graph input"):
        qnn_preprocess_model(model, tmp_path / "out.onnx", inputs_to_make_channel_last=["z"])
    with pytest.raises(OptionError, match="numbers with commas"):
        qnn_preprocess_model(model, tmp_path / "out.onnx", dynamic_input_shapes=[("x", "1,N")])
    with pytest.warns(RuntimeWarning, match="opset 17, and the model has 16"):
        qnn_preprocess_model(
            make([node("Neg", ["x"], ["y"])], {"x": [1]}, {"y": [1]}, opset=16), tmp_path / "o.onnx", True, True
        )


def chain():
    """a -> Sigmoid -> b -> MatMul(w) -> c -> Tanh -> d; c is read by Neg too."""
    nodes = [
        node("Sigmoid", ["a"], ["b"], "sigmoid"),
        node("MatMul", ["b", "w"], ["c"], "matmul"),
        node("Tanh", ["c"], ["d"], "tanh"),
        node("Neg", ["c"], ["e"], "neg"),
        node("Cast", ["e"], ["f"], "cast", to=TensorProto.FLOAT),
    ]
    shape = {"a": [2, 2]}
    return make(nodes, shape, {"d": [2, 2], "f": [2, 2]}, {"w": np.ones((2, 2), F32)})


def completed(overrides, default=U8):
    fixer = MixedPrecisionTensorQuantOverridesFixer.create_from_model(overrides, chain(), default)
    fixer.apply(default, default_activation_symmetric=False)
    parse_overrides(overrides)
    return overrides


def test_nodes_around_a_wide_tensor_work_in_its_type():
    converted = {"quant_type": U16, "recv_nodes": {"matmul"}}
    back = {"quant_type": U8, "recv_nodes": {"cast"}}
    assert completed({"c": [{"quant_type": U16}]}) == {
        "b": [{"quant_type": U8, "convert": converted}],
        "c": [{"quant_type": U16}],
        "d": [{"quant_type": U16}],
        "e": [{"quant_type": U16, "convert": back}],
    }


def test_symmetry_goes_with_the_type_and_completing_twice_changes_nothing():
    found = completed({"b": [{"quant_type": S16, "symmetric": True}]}, S8)
    assert found["a"] == [
        {"quant_type": S8, "convert": {"quant_type": S16, "symmetric": True, "recv_nodes": {"sigmoid"}}}
    ]
    assert completed(copy.deepcopy(found), S8) == found


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"b": [{"quant_type": U16}], "c": [{"quant_type": S16}]}, "contradict each other"),
        ({"z": [{"quant_type": U16}]}, "'z' in TensorQuantOverrides is not present"),
        ({"c": [{"qtype": U16}]}, "no key 'qtype'"),
    ],
)
def test_overrides_that_cannot_be_met_are_refused(overrides, said):
    with pytest.raises(ValueError, match=said):
        completed(overrides)


def test_the_configuration_holds_what_qnn_demands():
    initial = {"b": [{"quant_type": U16}]}
    config = get_qnn_qdq_config(chain(), None, activation_type=U8, weight_type=S8, init_overrides=initial)
    overrides = config.extra_options["TensorQuantOverrides"]
    assert initial == {"b": [{"quant_type": U16}]}
    assert overrides["b"] == [{"quant_type": U16, "scale": F32(2**-16), "zero_point": 0}]
    assert overrides["w"] == [{"quant_type": S8, "symmetric": True}]  # beside a 16-bit activation
    assert set(config.op_types_to_quantize) == {"Sigmoid", "MatMul", "Tanh", "Neg"}
    assert config.extra_options["UseQDQContribOps"] is True  # 16 bits below opset 21
    assert config.extra_options["MinimumRealRange"] == 1e-4
    parse_overrides(overrides)


@pytest.mark.parametrize(
    ("kind", "sigmoid", "tanh"), [(U16, (2**-16, 0), (2**-15, 32768)), (S16, (2**-15, 0), (2**-15, 0))]
)
def test_wide_sigmoids_and_tanhs_have_fixed_outputs(kind, sigmoid, tanh):
    overrides = get_qnn_qdq_config(chain(), None, activation_type=kind).extra_options["TensorQuantOverrides"]
    for name, (scale, zero_point) in (("b", sigmoid), ("d", tanh)):
        assert (overrides[name][0]["scale"], overrides[name][0]["zero_point"]) == (scale, zero_point)
        assert overrides[name][0]["zero_point"].dtype == kind.qtype.dtype


def test_products_have_one_scale_with_per_channel():
    config = get_qnn_qdq_config(chain(), None, per_channel=True, nodes_to_exclude=["tanh"])
    assert config.extra_options["TensorQuantOverrides"] == {"w": [{"quant_type": U8, "symmetric": False}]}
    assert set(config.op_types_to_quantize) == {"Sigmoid", "MatMul", "Neg"}
    assert "UseQDQContribOps" not in config.extra_options
