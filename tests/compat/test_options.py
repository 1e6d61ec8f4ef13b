"""What onnxruntime.quantization ignores is ignored here too, and told."""

from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import pytest

import vqonnx.compat as compat
from tests.compat.test_quantize import PRODUCTS, SHAPES, Reader, model

UNKNOWN: list[tuple[dict[str, Any], str]] = [
    ({"extra_options": {"WeightSymetric": True}}, "'WeightSymetric' is no option, and ignored (did you mean 'WeightS"),
    ({"nodes_to_exclude": ["MatMull_0"]}, "'MatMull_0' matches no node of the model (did you mean 'MatMul_0'"),
    ({"op_types_to_quantize": ["MatMul", "Gemm", "Gem"]}, "op_types_to_quantize: 'Gem' "),
]


@pytest.mark.parametrize(("arguments", "warning"), UNKNOWN)
@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_what_is_not_known_is_logged_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, arguments: dict[str, Any], warning: str
) -> None:
    def quantized(name: str, **more: Any) -> onnx.ModelProto:
        only: dict[str, Any] = {"op_types_to_quantize": ["MatMul", "Gemm"], **more}
        if kind == "static":
            compat.quantize_static(model(PRODUCTS), tmp_path / name, Reader(SHAPES[PRODUCTS]), **only)
        else:
            compat.quantize_dynamic(model(PRODUCTS), tmp_path / name, **only)
        return onnx.load(tmp_path / name)

    plain = quantized("plain.onnx")
    assert not caplog.messages
    assert quantized("told.onnx", **arguments) == plain
    assert [warning in message for message in caplog.messages] == [True]


def test_operators_that_the_model_lacks_are_not_worth_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    named = ["MatMul", "Conv", "EmbedLayerNormalization", "Transpose"]
    compat.quantize_static(model(PRODUCTS), tmp_path / "s.onnx", Reader(SHAPES[PRODUCTS]), op_types_to_quantize=named)
    compat.quantize_dynamic(model(PRODUCTS), tmp_path / "d.onnx", op_types_to_quantize=[*named, "Attention", "LSTM"])
    assert not caplog.messages


def test_options_of_static_quantization_change_nothing_in_dynamic(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"CalibPercentile": 99.0, "ActivationSymmetric": True, "MatMulConstBOnly": True}
    compat.quantize_dynamic(model(PRODUCTS), tmp_path / "q.onnx", extra_options=options)
    assert [message.split(": ")[1] for message in caplog.messages] == [
        "'CalibPercentile'=99.0 changes nothing",
        "'ActivationSymmetric'=True changes nothing",
    ]


def test_operators_of_a_library_need_not_be_there(tmp_path: Path) -> None:
    made = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["" : 13, "of.ours" : 1]>
        g (float[2,2] x) => (float[2,2] y) <float[2,2] w = {1, -2, 3, 4}> { h = of.ours.Turned (x) y = MatMul (h, w) }
    """)
    compat.quantize_dynamic(made, tmp_path / "q.onnx")
    found = [node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node]
    assert found[:3] == ["Turned", "DynamicQuantizeLinear", "MatMulInteger"]
