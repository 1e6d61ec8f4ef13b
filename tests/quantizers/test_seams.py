"""Overriding a method of a quantizer class changes the model that is written, in every form."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models.build import Weights, build
from tests.quantizers.flow import EAGER, constants, normals
from vqonnx import ONNXQuantizer, QDQQuantizer, QuantizedValue, QuantType, quantize_static
from vqonnx.core.params import QuantizedTensor, QuantParams
from vqonnx.quantizers.base import BaseQuantizer

FEEDS = normals(16, {"x": (3, 8)})
FORMS = (QDQQuantizer, ONNXQuantizer)
Names = tuple[str, str, str]


def perceptron() -> onnx.ModelProto:
    """Two dense layers."""
    weights = Weights(2)
    weights.linear("a", 8, 8)
    weights.linear("b", 8, 8)
    text = "g (float[N, 8] x) => (float[N, 8] y) {\nh = Gemm (x, a_w, a_b)\nr = Relu (h)\ny = Gemm (r, b_w, b_b)\n}"
    return build(text, weights.arrays)


class _Device(BaseQuantizer):
    target = EAGER


def written(path: Path, kind: type[BaseQuantizer], form: type[BaseQuantizer], **arguments: Any) -> onnx.ModelProto:
    """What ``quantize_static`` writes with the methods of ``kind`` in the form of ``form``."""
    quantize_static(
        perceptron(),
        path,
        FEEDS,
        quantizer=type(kind.__name__, (kind, form), {}),
        guard=False,
        bias_correction="off",
        calibrate_method="MinMax",  # type: ignore[arg-type]  # a name will do
        verify="checker",
        progress=lambda *_: None,
        **arguments,
    )
    return onnx.load(path)


class OwnModel(_Device):
    def quantize_model(self) -> onnx.ModelProto:
        made = super().quantize_model()
        made.producer_name = "own"
        return made


class OwnActivations(_Device):
    def calculate_quantization_params(self) -> dict[str, QuantParams]:
        found = super().calculate_quantization_params()
        return {
            key: self._stored(key, QuantParams(one.scale * np.float32(2), one.zero_point, one.spec))
            for key, one in found.items()
        }

    def _stored(self, key: str, params: QuantParams) -> QuantParams:
        self.store_params(key, params)
        return params


class OwnWeightsOfANode(_Device):
    def quantize_weight(
        self,
        node: onnx.NodeProto,
        indices: Sequence[int],
        reduce_range: bool = False,
        op_level_per_channel: bool = False,
        axis: int = -1,
        from_subgraph: bool = False,
    ) -> tuple[list[str], list[str], list[str], list[onnx.NodeProto]]:
        if node.name == "Gemm_0":
            reduce_range = True
        return super().quantize_weight(node, indices, reduce_range, op_level_per_channel, axis, from_subgraph)


class OwnChannels(_Device):
    def quantize_weight_per_channel(
        self,
        weight_name: str,
        weight_qType: QuantType,
        channel_axis: int,
        reduce_range: bool = True,
        keep_float_weight: bool = False,
    ) -> Names:
        names = super().quantize_weight_per_channel(
            weight_name, weight_qType, channel_axis, reduce_range, keep_float_weight
        )
        self.initializers[names[0]] = np.zeros_like(self.initializers[names[0]])
        return names


class OwnInitializers(_Device):
    def quantize_initializer(
        self,
        weight: onnx.TensorProto,
        qType: QuantType,
        reduce_range: bool = False,
        keep_float_weight: bool = False,
    ) -> Names:
        names = super().quantize_initializer(weight, qType, reduce_range, keep_float_weight)
        self.initializers[names[0]] = np.full_like(self.initializers[names[0]], len(weight.name))
        return names


class OwnBiases(_Device):
    def quantize_bias_static(self, bias_name: str, input_name: str, weight_name: str, beta: float = 1.0) -> str:
        return super().quantize_bias_static(bias_name, input_name, weight_name, beta * 2)


class OwnLookUpOfValues(_Device):
    """A weight that was quantized elsewhere is found, and so not quantized again."""

    def find_quantized_value(self, input_name: str) -> QuantizedValue | None:
        known = super().find_quantized_value(input_name)
        if known is None and input_name == "a_w":
            spec = self.current_plan().tensors[input_name].spec
            params = QuantParams(np.full(8, 0.25, np.float32), np.zeros(8, np.int8), spec)
            known = self.store(input_name, QuantizedTensor(np.full((8, 8), 7, np.int8), params))
        return known


class OwnLookUpOfScales(_Device):
    def find_quant_scale_zp(self, input_name: str) -> tuple[str, str] | tuple[None, None]:
        if input_name != "x":
            return super().find_quant_scale_zp(input_name)
        self.initializers["mine"] = np.array(4, np.float32)
        return "mine", "x_zero_point"


SEAMS: dict[type[_Device], Callable[[Mapping[str, Any], Mapping[str, Any]], bool]] = {
    OwnActivations: lambda was, now: now["x_scale"] == 2 * was["x_scale"] and now["r_scale"] == 2 * was["r_scale"],
    OwnWeightsOfANode: lambda was, now: (
        abs(was["a_w_quantized"]).max() == 127
        and abs(now["a_w_quantized"]).max() == 64
        and (now["b_w_quantized"] == was["b_w_quantized"]).all()
    ),
    OwnChannels: lambda was, now: was["a_w_quantized"].any() and not now["a_w_quantized"].any(),
    OwnInitializers: lambda was, now: (now["a_w_quantized"] == 3).all() and not (was["a_w_quantized"] == 3).all(),
    OwnBiases: lambda was, now: np.abs(now["a_b_quantized"] - was["a_b_quantized"] / 2).max() <= 0.5,
    OwnLookUpOfValues: lambda was, now: (now["a_w_quantized"] == 7).all() and (now["a_w_scale"] == 0.25).all(),
    OwnLookUpOfScales: lambda was, now: (
        np.abs(now["a_b_quantized"] - constants(perceptron())["a_b"] / (4 * now["a_w_scale"])).max() <= 0.5
    ),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", list(SEAMS))
def test_an_overridden_method_changes_the_written_numbers(
    kind: type[BaseQuantizer], form: type[BaseQuantizer], tmp_path: Path
) -> None:
    per_channel = kind is not OwnInitializers
    plain = constants(written(tmp_path / "plain.onnx", _Device, form, per_channel=per_channel))
    own = constants(written(tmp_path / "own.onnx", kind, form, per_channel=per_channel))
    assert SEAMS[kind](plain, own)


@pytest.mark.parametrize("form", FORMS)
def test_an_overridden_quantize_model_changes_the_written_model(form: type[BaseQuantizer], tmp_path: Path) -> None:
    assert written(tmp_path / "plain.onnx", _Device, form).producer_name != "own"
    assert written(tmp_path / "own.onnx", OwnModel, form).producer_name == "own"


@pytest.mark.parametrize("form", FORMS)
def test_each_documented_method_has_a_seam(form: type[BaseQuantizer]) -> None:
    documented = {
        "quantize_model", "calculate_quantization_params", "quantize_initializer", "quantize_weight",
        "quantize_weight_per_channel", "quantize_bias_static", "find_quantized_value", "find_quant_scale_zp",
    }  # fmt: skip
    own = {name for kind in (*SEAMS, OwnModel) for name in vars(kind) if not name.startswith("_")}
    assert own == documented
    assert all(inspect.isfunction(getattr(form, name)) for name in documented)
