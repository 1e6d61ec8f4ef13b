"""int8 activations from opset 21 on, which ONNX Runtime's CPU makes uint8; see the index."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from models.build import Weights, build
from tests.faults.flow import FORMS, static
from tests.faults.test_invalid_models import quantized
from tests.quantizers.flow import normals

MOVERS = {
    "MaxPool": "MaxPool <kernel_shape = [2, 2]> (t)",
    "Reshape": "Reshape (t, rows)",
    "Slice": "Slice (t, zero, two, one)",
    "Squeeze": "Squeeze (t, zero)",
    "Transpose": "Transpose <perm = [0, 1, 3, 2]> (t)",
    "Unsqueeze": "Unsqueeze (t, one)",
}


@pytest.mark.parametrize("opset", [20, 21, 22])
def test_signed_activations_beside_movers_load_at_every_opset(opset: int, tmp_path: Path) -> None:
    weights = Weights(940)
    weights.arrays |= {name: np.array([number]) for name, number in {"zero": 0, "one": 1, "two": 2}.items()}
    weights.arrays["rows"] = np.array([-1, 8])
    weights.linear("h", 8, 8)
    weights.linear("p", 7, 8)
    moved = "".join(
        f"m{k} = {mover} y{k} = MatMul (m{k}, {'p_w' if name == 'MaxPool' else 'h_w'}) "
        for k, (name, mover) in enumerate(MOVERS.items())
    )
    outputs = ", ".join(f"float[{'A, B, C, D, E'[: size * 3 - 2]}] y{k}" for k, size in enumerate((4, 2, 4, 3, 4, 5)))
    # ONNX Runtime fuses MatMul and Add of rank 3 with Reshapes of its own.
    text = f"g (float[1, 2, 8, 8] x, float[2, 5, 8] z) => (float[2, 5, 8] s, {outputs}) "
    text += f"{{ t = Tanh (x) {moved} a = MatMul (z, h_w) b = Add (a, h_b) s = Softplus (b) }}"
    feeds = normals(8, {"x": (1, 2, 8, 8), "z": (2, 5, 8)})
    model = build(text, weights.arrays, opset=opset)
    for form in FORMS:
        chosen = {"op_types_to_quantize": ["MatMul"], "activation_type": "QInt8", "quant_format": form}
        assert quantized(model, tmp_path / f"{form}.onnx", feeds, **chosen).quantized["MatMul"] == 7


@pytest.mark.parametrize("target", ["tensorrt", "qnn-htp", "openvino", "vitis"])
def test_signed_activations_for_devices_stay_onnx_and_are_verified(target: str, tmp_path: Path) -> None:
    weights = Weights(941)
    weights.linear("h", 16, 16)
    weights.linear("o", 16, 8)
    # ONNX Runtime fuses MatMul and Add of rank 3 with Reshapes of its own.
    text = """g (float[2, 5, 16] x) => (float[2, 5, 8] y) {
        a = MatMul (x, h_w) b = Add (a, h_b) s = Softplus (b) c = MatMul (s, o_w) y = Add (c, o_b)
    }"""
    feeds, path = normals(8, {"x": (2, 5, 16)}), tmp_path / "m.onnx"
    model = build(text, weights.arrays, opset=21)
    report = static(model, path, feeds, target=target, activation_type="QInt8", bias_correction="auto", guard=True)
    assert report.quantized["MatMul"] == 2
    assert report.verification.outputs[0].sqnr_db > 25
    assert any("session.qdqisint8allowed=1" in note for note in report.verification.notes)
    assert {node.domain for node in onnx.load(path).graph.node} == {""}
