"""Faults of not saying anything: what is misspelt, has no form, or is not done as asked; see the index."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.build import build
from models.matmuls import two_activations
from tests.faults.flow import dynamic, operators, packed, static, worst_db
from tests.faults.test_wrong_numbers import ROWS, two_layers
from tests.quantizers.flow import normals
from vqonnx.errors import OptionError


@pytest.mark.parametrize(
    ("arguments", "offered"),
    [
        ({"nodes_to_exclude": ["Gem_0"]}, "Gemm_0"),
        ({"nodes_to_quantize": ["Gem_0"]}, "Gemm_0"),
        ({"op_types_to_quantize": ["Conw", "Gemm"]}, "Conv"),
        ({"extra_options": {"ActivationSymetric": True}}, "ActivationSymmetric"),
        ({"calibrate_method": "Entropie"}, "Entropy"),
        ({"extra_options": {"TensorQuantOverrides": {"xx": [{"symmetric": True}]}}}, "x"),
    ],
)
def test_what_is_misspelt_is_an_error_that_offers_the_nearest(
    arguments: dict[str, Any], offered: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError, match=f"'{offered}'"):
        static(two_layers(), tmp_path / "m.onnx", ROWS, **arguments)
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("quantize", [dynamic, packed])
def test_misspelt_nodes_are_an_error_in_every_form(quantize: Any, tmp_path: Path) -> None:
    for option in ("nodes_to_exclude", "nodes_to_quantize"):
        with pytest.raises(OptionError, match="'Gemm_0'"):
            quantize(two_layers(), tmp_path / "m.onnx", **{option: ["Gem_0"]})


def test_dynamic_quantization_hears_the_names_of_gemms(tmp_path: Path) -> None:
    dynamic(two_layers(), tmp_path / "m.onnx", nodes_to_exclude=["Gemm_2"])
    assert operators(tmp_path / "m.onnx").count("Gemm") == 1
    report = dynamic(two_layers(), tmp_path / "m.onnx", nodes_to_quantize=["Gemm_2"])
    assert report.quantized == {"Gemm": 1}


def test_operators_without_a_static_form_are_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        name: rng.normal(0, 0.3, shape).astype(np.float32)
        for name, shape in {"w": (1, 24, 8), "r": (1, 24, 8), "v": (1, 32, 8), "s": (1, 32, 8), "e": (8, 8)}.items()
    }
    text = """g (float[S, N, 8] x) => (float[S, 1, N, 8] y, float[S, 1, N, 8] z, float[S, N, 8] u) {
        y = GRU <hidden_size = 8> (x, w, r)
        z = LSTM <hidden_size = 8> (x, v, s)
        u = Einsum <equation = "sni,ij->snj"> (x, e)
    }"""
    model, feeds = build(text, arrays), normals(8, {"x": (5, 2, 8)})
    report = static(model, tmp_path / "m.onnx", feeds)
    told = {skip.op_type: skip.reason for skip in report.skips}
    assert not report.quantized
    assert told.keys() >= {"GRU", "LSTM", "Einsum"}
    assert all("GRU" not in reason or reason for reason in told.values())
    report = dynamic(model, tmp_path / "m.onnx")
    assert report.quantized.keys() == {"GRU", "LSTM"}
    assert {skip.op_type for skip in report.skips} == {"Einsum"}
    assert worst_db(model, tmp_path / "m.onnx", feeds) > 20


@pytest.mark.parametrize("only", [True, False])
def test_matmuls_of_two_activations_are_left_only_when_asked(only: bool, tmp_path: Path) -> None:
    feeds = normals(8, {"a": (2, 4, 8), "b": (2, 8, 5)})
    extra = {"MatMulConstBOnly": only}
    report = static(two_activations(), tmp_path / "m.onnx", feeds, target="directml", extra_options=extra)
    assert bool(report.quantized) is not only
    assert worst_db(two_activations(), tmp_path / "m.onnx", feeds) > 30
