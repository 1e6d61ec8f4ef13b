"""VitisQDQQuantizer and VitisONNXQuantizer: their methods, what they keep, and that overrides count."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest

from tests.quantizers.flow import constants, run, sqnr
from tests.quantizers.vitis_models import SAMPLES, WEIGHTS, network, simulate, written
from vqonnx import (
    CalibrationMethod,
    PowerOfTwoMethod,
    QuantFormat,
    QuantType,
    VitisONNXQuantizer,
    VitisQDQQuantizer,
    quantize_static,
)
from vqonnx.core.params import QuantParams
from vqonnx.errors import OptionError

CLASSES = pytest.mark.parametrize("kind", [VitisQDQQuantizer, VitisONNXQuantizer])
RANGES = dict.fromkeys(("x", "h", "s", "t", "g", "v", "y"), (-4.0, 4.0))
EMPTY = inspect.Parameter.empty
METHODS: dict[str, dict[str, object]] = {
    "quantize_initializer": {
        "weight": EMPTY, "qType": EMPTY, "method": None, "reduce_range": False, "keep_float_weight": False,
    },
    "quantize_weight_per_channel": {
        "weight_name": EMPTY, "weight_qType": EMPTY, "channel_axis": EMPTY, "method": None, "reduce_range": True,
        "keep_float_weight": False,
    },
    "quantize_weight": {
        "node": EMPTY, "indices": EMPTY, "reduce_range": False, "op_level_per_channel": False, "axis": -1,
        "from_subgraph": False,
    },
    "quantize_bias_static": {"bias_name": EMPTY, "input_name": EMPTY, "weight_name": EMPTY, "beta": 1.0},
    "find_quant_scale_zp": {"input_name": EMPTY},
    "find_quantized_value": {"input_name": EMPTY},
    "calculate_quantization_params": {},
    "quantize_model": {},
}  # fmt: skip


def made(kind: type[Any], **arguments: Any) -> Any:
    """A quantizer with a plan and ranges."""
    one = kind(network(), tensors_range=RANGES, **arguments)
    one.current_plan()
    return one


def is_power_of_two(scales: Any) -> bool:
    return bool((np.frexp(scales)[0] == 0.5).all())


def tensor(name: str) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(WEIGHTS[name], name)


@CLASSES
def test_methods_have_the_documented_parameters_and_texts(kind: type[Any]) -> None:
    for name, wanted in METHODS.items():
        method = getattr(kind, name)
        found = {p.name: p.default for p in list(inspect.signature(method).parameters.values())[1:]}
        assert found == wanted, name
        assert inspect.getdoc(method), name


@CLASSES
def test_initializers_are_quantized_by_the_method_that_is_asked_for(kind: type[Any]) -> None:
    one = made(kind)
    names = one.quantize_initializer(tensor("a"), QuantType.QInt8, CalibrationMethod.MinMax)
    codes, zero, scale = (one.initializers[name] for name in names)
    assert scale == np.float32(np.abs(WEIGHTS["a"]).max() / 127)
    assert zero == 0
    np.testing.assert_array_equal(codes, np.rint(WEIGHTS["a"] / scale))
    two = made(kind, calibrate_method=PowerOfTwoMethod.MinMSE)
    names = two.quantize_initializer(tensor("a"), QuantType.QInt8, PowerOfTwoMethod.MinMSE)
    scale = two.initializers[names[2]]
    errors = {}
    for position in range(4, 12):  # brute force over the positions
        step = 2.0**-position
        errors[step] = ((np.clip(np.rint(WEIGHTS["a"] / step), -127, 127) * step - WEIGHTS["a"]) ** 2).sum()
    assert scale == min(errors, key=errors.__getitem__)


@CLASSES
def test_channels_have_scales_and_float_weights_can_be_kept(kind: type[Any]) -> None:
    one = made(kind)
    names = one.quantize_weight_per_channel("a", QuantType.QInt8, 0, CalibrationMethod.MinMax, False)
    codes, zeros, scales = (one.initializers[name] for name in names)
    np.testing.assert_allclose(scales, np.abs(WEIGHTS["a"]).max(axis=(1, 2, 3)) / 127, rtol=1e-6)
    np.testing.assert_array_equal(codes, np.rint(WEIGHTS["a"] / scales[:, None, None, None]))
    assert not zeros.any()
    names = one.quantize_weight_per_channel("c", QuantType.QInt8, 0, None, True, True)
    np.testing.assert_array_equal(one.initializers[names[0]], WEIGHTS["c"])


@CLASSES
def test_a_nodes_weights_and_bias_are_found_where_the_maps_say(kind: type[Any]) -> None:
    one = made(kind)
    one.calculate_quantization_params()
    node = next(n for n in network().graph.node if n.name == "Conv_0")
    q_names, zp_names, scale_names, added = one.quantize_weight(node, [1])
    assert added == []
    value = one.quantized_value_map["a"]
    assert [value.q_name, value.zp_name, value.scale_name] == [q_names[0], zp_names[0], scale_names[0]]
    assert one.find_quantized_value("a") is value
    assert one.used_scale_zp_map["a"] == one.find_quant_scale_zp("a") == (scale_names[0], zp_names[0])
    assert one.find_quantized_value("nothing") is None
    assert one.find_quant_scale_zp("nothing") == (None, None)
    name = one.quantize_bias_static("ab", "x", "a", beta=2.0)
    scale = one.initializers["x_scale"].astype(float) * one.initializers["a_scale"] * 2
    assert one.initializers[name].dtype == np.int32
    np.testing.assert_array_equal(one.initializers[name], np.rint(WEIGHTS["ab"] / scale))


@CLASSES
def test_biases_without_quantized_input_or_with_odd_weights_are_value_errors(kind: type[Any]) -> None:
    one = made(kind)
    with pytest.raises(ValueError, match="'x' is not quantized"):
        one.quantize_bias_static("ab", "x", "a")
    other = made(VitisQDQQuantizer, weight_qType=QuantType.QBFloat16)
    with pytest.raises(ValueError, match="weight 'a' is bfloat16, which gives no int32 bias a scale"):
        other.quantize_bias_static("ab", "x", "a")


class Twice(VitisQDQQuantizer):
    """Every method decides something else."""

    def calculate_quantization_params(self) -> dict[str, QuantParams]:
        found = super().calculate_quantization_params()
        self.store_params("x", QuantParams(found["x"].scale * 2, found["x"].zero_point, found["x"].spec))
        return {**found, "x": QuantParams(found["x"].scale * 2, found["x"].zero_point, found["x"].spec)}

    def quantize_initializer(self, weight: Any, qType: Any, method: Any = None, *rest: Any, **more: Any) -> Any:
        names = super().quantize_initializer(weight, qType, CalibrationMethod.MinMax, *rest, **more)
        if weight.name == "c":
            self.initializers[names[0]] = np.zeros_like(self.initializers[names[0]])
        return names

    def quantize_bias_static(self, bias_name: str, input_name: str, weight_name: str, beta: float = 1.0) -> str:
        return super().quantize_bias_static(bias_name, input_name, weight_name, beta * 4)


def test_overrides_change_the_written_model(tmp_path: Any) -> None:
    plain, own = (
        constants(written(tmp_path / f"{kind.__name__}.onnx", quantizer=kind, target=None))
        for kind in (VitisQDQQuantizer, Twice)
    )
    assert own["x_scale"] == 2 * plain["x_scale"]
    assert plain["c_quantized"].any()
    assert not own["c_quantized"].any()
    assert np.abs(own["cb_quantized"] - plain["cb_quantized"] / 4).max() <= 0.5
    assert (own["y_scale"], own["f_scale"]) == (plain["y_scale"], plain["f_scale"])


class Coarse(VitisQDQQuantizer):
    """Starts from weights of half the resolution; the device's rules then hold for what is written."""

    target = "vitis-npu-cnn"

    def constant_params(self, name: str, spec: Any, method: Any = None) -> QuantParams:
        found = super().constant_params(name, spec, *([method] if method is not None else []))
        return QuantParams(found.scale * np.float32(2), found.zero_point, spec) if name == "f" else found


def test_codes_are_made_after_positions_were_refined(tmp_path: Any) -> None:
    """Stored codes are the floats on the stored scales, which are powers of two: the peer edits only the scales."""
    for kind in (VitisQDQQuantizer, Coarse):
        model = constants(written(tmp_path / "m.onnx", quantizer=kind, target="vitis-npu-cnn"))
        for name, array in WEIGHTS.items():
            scale = model[f"{name}_scale"]
            assert is_power_of_two(scale)
            np.testing.assert_array_equal(model[f"{name}_quantized"], np.clip(np.rint(array / scale), -127, 127))
            assert model[f"{name}_quantized"].dtype == np.int8


def written_by(path: Any, options: Mapping[str, object], **arguments: Any) -> Mapping[str, Any]:
    return constants(written(path, extra_options=dict(options), **arguments))


def test_what_is_never_negative_takes_all_unsigned_codes(tmp_path: Any) -> None:
    signed = written_by(tmp_path / "a.onnx", {})
    unsigned = written_by(tmp_path / "b.onnx", {"UseUnsignedReLU": True})
    assert (signed["h_zero_point"].dtype, unsigned["h_zero_point"].dtype) == (np.int8, np.uint8)
    assert unsigned["h_zero_point"] == 0
    assert unsigned["h_scale"] < 0.6 * signed["h_scale"]
    assert unsigned["s_zero_point"].dtype == np.int8
    assert VitisQDQQuantizer(network(), extra_options={"UseUnsignedReLU": True}).use_unsigned_relu
    assert not VitisQDQQuantizer(network()).use_unsigned_relu


def test_the_method_alone_chooses_the_class_and_powers_of_two(tmp_path: Any) -> None:
    for method in (PowerOfTwoMethod.NonOverflow, PowerOfTwoMethod.MinMSE):
        path = tmp_path / "m.onnx"
        quantize_static(network(), path, SAMPLES, calibrate_method=method, verify="checker", progress=lambda *_: None)
        model = constants(onnx.load(path))
        assert all(is_power_of_two(array) for name, array in model.items() if name.endswith("_scale"))
        if method is PowerOfTwoMethod.NonOverflow:
            largest = max(np.abs(feed["x"]).max() for feed in SAMPLES[:7])
            assert model["x_scale"] * 127 >= largest  # it covers all that was observed


def test_scales_of_16_bit_multipliers(tmp_path: Any) -> None:
    """``Int16Scale``: M * 2^-N with a 15-bit M and N up to 16."""
    model = written_by(tmp_path / "m.onnx", {"Int16Scale": True})
    for name, scales in model.items():
        if name.endswith("_scale") and not name.endswith("b_scale"):
            found = scales.astype(float) * 2.0 ** np.arange(17)
            assert any(one == np.rint(one) and abs(one) <= 32767 for one in found), name


def test_the_qoperator_form_has_int32_biases(tmp_path: Any) -> None:
    model = written(tmp_path / "m.onnx", quant_format=QuantFormat.QOperator, target="vitis-npu-cnn")
    operators = {node.op_type for node in model.graph.node}
    assert {"QLinearConv", "QLinearAdd", "QGemm"} <= operators
    assert constants(model)["ab_quantized"].dtype == np.int32


def test_modes_of_dynamic_quantization_are_refused() -> None:
    with pytest.raises(OptionError, match="writes static models only"):
        VitisQDQQuantizer(network(), static=False)


def test_rules_that_fixed_scales_contradict_are_told_with_their_nodes(tmp_path: Any) -> None:
    """Add shifts its inputs apart by 7 places at most, and the user asks for 11."""
    fixed = {"h": [{"scale": 2.0**-12, "zero_point": 0}], "s": [{"scale": 0.5, "zero_point": 0}]}
    report = quantize_static(
        network(), tmp_path / "m.onnx", SAMPLES, preset="xint8", bias_correction="off",
        extra_options={"TensorQuantOverrides": fixed}, progress=lambda *_: None,
    )  # fmt: skip
    broken = [(shift.option, shift.node, shift.value, shift.slack) for shift in report.violations]
    assert ("AdjustShiftRead", "Add_3", 11, -4) in broken
    assert "the device's rule AdjustShiftRead at 'Add_3': 11, must be [0, 7] does not hold" in report.warnings
    assert (report.positions["h"], report.positions["s"]) == (12, 1)


@CLASSES
def test_a_class_by_itself_quantizes_a_model_as_it_comes(kind: type[Any]) -> None:
    """The types of its values are not known yet."""
    model = kind(network(), tensors_range=RANGES, extra_options={"Target": "vitis-npu-cnn"}).quantize_model()
    onnx.checker.check_model(model)
    found = run(model, SAMPLES[0])["y"]
    assert sqnr(simulate(SAMPLES[0]["x"], {}), found) > 20
    assert sum(node.op_type in ("DequantizeLinear", "QLinearConv", "QGemm") for node in model.graph.node) > 2
