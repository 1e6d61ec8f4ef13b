"""Targets that were never executed here hold to what their documentation says, in the tables and in written models."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from models.registry import load
from vqonnx.api.dynamic import quantize_dynamic
from vqonnx.api.static import quantize_static
from vqonnx.core.target import Form
from vqonnx.errors import DependencyError
from vqonnx.progress import silent
from vqonnx.quantizers.types import QuantType
from vqonnx.runtime.package import onnxruntime
from vqonnx.targets.directml import DIRECTML
from vqonnx.targets.registry import get_target

NETWORKS = ["networks/residual_cnn", "networks/transformer"]
NEVER_EXECUTED = ["directml", "openvino", "qnn-htp", "tensorrt"]
PAIR = ("QuantizeLinear", "DequantizeLinear")

# ONNX Runtime, docs/OperatorKernels.md, DmlExecutionProvider: what takes both uint8 and int8, and from which opset on.
DML_MOVES = {
    "Concat": 4, "DepthToSpace": 1, "Expand": 8, "Flatten": 1, "Gather": 1, "GatherElements": 11, "GatherND": 11,
    "Identity": 1, "MaxPool": 8, "Pad": 2, "Reshape": 5, "Resize": 11, "Slice": 1, "SpaceToDepth": 1, "Split": 2,
    "Squeeze": 1, "Tile": 6, "Transpose": 1, "Unsqueeze": 1, "Where": 9,
}  # fmt: skip
DML_COMPUTES = {
    "Add": "QLinearAdd", "AveragePool": "QLinearAveragePool", "Concat": "QLinearConcat", "Conv": "QLinearConv",
    "GlobalAveragePool": "QLinearGlobalAveragePool", "MatMul": "QLinearMatMul", "Sigmoid": "QLinearSigmoid",
}  # fmt: skip
DML_INTEGER = {*DML_COMPUTES.values(), "MatMulIntegerToFloat", *PAIR}


def written(case: str, target: str, folder: Path, **options: object) -> onnx.ModelProto:
    found = load()[case]
    path = folder / "q.onnx"
    feeds = list(found.feeds(2))
    plain = {
        "guard": False,
        "equalize": False,
        "bias_correction": "off",
        "calibrate_method": "MinMax",
        "verify": "checker",
    }
    quantize_static(found.build(), path, feeds, target=target, progress=silent, **{**plain, **options})
    return onnx.load(path)


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def dequantized(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, np.ndarray]]:
    """Nodes that convert, and their zero points."""
    arrays = constants(model)
    return [(node, arrays[node.input[2]]) for node in model.graph.node if node.op_type in PAIR]


@pytest.mark.parametrize("form", [Form.QDQ, Form.QOPERATOR])
def test_directml_lists_documented_operators_only(form: Form) -> None:
    for name, support in DIRECTML.forms[form].items():
        assert name in DML_COMPUTES or name in ("Relu", "Clip") or DML_MOVES[name] <= max(13, support.opset)
        assert set(support.types) <= {"uint8", "int8"}


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("case", NETWORKS)
def test_directml_is_given_documented_operators_and_types(case: str, form: str, tmp_path: Path) -> None:
    model = written(case, "directml", tmp_path, quant_format=form)
    opset = next(one.version for one in model.opset_import if not one.domain)
    integer = [node for node in model.graph.node if "Linear" in node.op_type or "Integer" in node.op_type]
    assert len(integer) > 3
    assert {node.op_type for node in integer} <= DML_INTEGER
    for node, zero in dequantized(model):
        assert zero.dtype in (np.uint8, np.int8, np.int32)
        assert opset <= 20 or zero.dtype != np.int32 or node.domain == "com.microsoft"


def test_directml_beyond_opset_20_gets_the_contributed_operators(tmp_path: Path) -> None:
    found = written("opsets/21", "directml", tmp_path)
    assert {node.domain for node in found.graph.node if node.op_type in PAIR} == {"com.microsoft"}


@pytest.mark.parametrize("case", NETWORKS)
def test_tensorrt_is_given_symmetric_int8_and_float_biases(case: str, tmp_path: Path) -> None:
    pairs = dequantized(written(case, "tensorrt", tmp_path))
    assert len(pairs) > 3
    assert all(zero.dtype == np.int8 and not zero.any() for _, zero in pairs)


@pytest.mark.parametrize("case", NETWORKS)
def test_openvino_is_given_uint8_activations_int8_weights_and_float_biases(case: str, tmp_path: Path) -> None:
    model = written(case, "openvino", tmp_path)
    arrays = constants(model)
    pairs = dequantized(model)
    assert len(pairs) > 3
    for node, zero in pairs:
        weight = node.op_type == "DequantizeLinear" and node.input[0] in arrays and zero.dtype == np.int8
        assert zero.dtype == np.uint8 or (weight and not zero.any())


def test_qnn_takes_uint8_matrices_and_int8_filters(tmp_path: Path) -> None:
    weights = {"Conv": (np.int8, 1), "Gemm": (np.uint8, 0), "MatMul": (np.uint8, 0)}
    seen = set()
    for case in NETWORKS:
        model = written(case, "qnn-htp", tmp_path)
        arrays = constants(model)
        makers = {node.output[0]: node for node in model.graph.node}
        for node in model.graph.node:
            maker = makers.get(node.input[1]) if node.op_type in weights else None
            if maker is not None and maker.input[0] in arrays:
                seen.add(node.op_type)
                dtype, rank = weights[node.op_type]
                assert arrays[maker.input[0]].dtype == dtype
                assert arrays[maker.input[1]].ndim == rank
    assert seen >= {"Conv", "MatMul"}


def test_on_qnn_a_users_weight_type_is_that_of_all_weights(tmp_path: Path) -> None:
    model = written("networks/transformer", "qnn-htp", tmp_path, weight_type=QuantType.QInt16)
    matrices = [array for name, array in constants(model).items() if array.ndim == 2 and array.dtype.kind == "i"]
    assert {array.dtype.name for array in matrices} >= {"int16"}


def test_on_qnn_every_operator_of_a_network_is_quantized(tmp_path: Path) -> None:
    """What stood between float tensors would leave the NPU."""
    model = written("networks/residual_cnn", "qnn-htp", tmp_path)
    fed = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    fed |= {tensor.name for tensor in model.graph.initializer}
    inner = [node for node in model.graph.node if node.op_type not in PAIR]
    convs = {node.output[0] for node in inner if node.op_type == "Conv"}
    for node in inner:
        assert set(node.input) - {""} <= fed or (node.op_type == "Relu" and node.input[0] in convs)


@pytest.mark.parametrize("target", NEVER_EXECUTED)
def test_an_absent_provider_is_named_with_the_package_that_brings_it(target: str, tmp_path: Path) -> None:
    provider = get_target(target).provider
    if provider in onnxruntime().get_available_providers():
        pytest.skip(f"{provider} is here")
    with pytest.raises(DependencyError, match=f"{provider}.*install onnxruntime-") as caught:
        written("opsets/13", target, tmp_path, calibration_providers=[provider])
    assert caught.value.package == provider
    assert not (tmp_path / "q.onnx").exists()


@pytest.mark.parametrize(
    "case", ["networks/transformer", "networks/residual_cnn", "networks/recurrent", "weights/tied"]
)
def test_directml_is_given_documented_dynamic_operators(case: str, tmp_path: Path) -> None:
    found = load()[case]
    every = ["Attention", "Conv", "GRU", "Gather", "Gemm", "LSTM", "MatMul", "RNN"]
    report = quantize_dynamic(
        found.build(), tmp_path / "q.onnx", every, target="directml", verify=False, progress=silent
    )
    assert report.quantized
    model = onnx.load(tmp_path / "q.onnx")
    operators = {node.op_type for node in model.graph.node if "Quantize" in node.op_type or "Integer" in node.op_type}
    assert operators <= {"ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger"}
    assert {array.dtype.name for array in constants(model).values()} <= {"float32", "int8", "uint8", "int64", "int32"}
