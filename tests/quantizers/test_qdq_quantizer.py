"""The class that users subclass: each method decides something in the model that is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models.gemm import huge_bias
from models.matmuls import linear_bias
from models.precision import half, half_subnormal
from models.sharing import both_ways
from tests.quantizers.flow import EAGER, constants, normals, quantized, quantizer, run, sqnr
from vqonnx import QDQQuantizer, quantize_static
from vqonnx.core.params import QuantizedTensor, QuantParams
from vqonnx.errors import OptionError, QuantRangeError
from vqonnx.kernels.affine import dequantize

FEEDS = normals(16, {"x": (2, 3, 8)})
Names = tuple[str, str, str]


class _Device(QDQQuantizer):
    target = EAGER


def written(path: Path, kind: type[QDQQuantizer] = _Device, **arguments: Any) -> onnx.ModelProto:
    quantize_static(
        linear_bias(),
        path,
        FEEDS,
        quantizer=kind,
        guard=False,
        bias_correction="off",
        calibrate_method="MinMax",  # type: ignore[arg-type]  # a name will do
        verify="checker",
        progress=lambda *_: None,
        **arguments,
    )
    return onnx.load(path)


def test_the_class_names_its_target(tmp_path: Path) -> None:
    metadata = {entry.key: entry.value for entry in written(tmp_path / "m.onnx").metadata_props}
    assert metadata["vqonnx.target"] == "eager"


# ---- the constructor ----


def test_the_constructor_does_no_work_and_leaves_the_callers_model() -> None:
    model = onnx.shape_inference.infer_shapes(linear_bias())
    before = model.SerializeToString()
    made = _Device(model, tensors_range={"x": (-1.0, 1.0)})
    assert (made.plan, made.solutions, made.initializers) == (None, None, {})
    with pytest.raises(OptionError, match="tensors_range has no range for tensor"):
        made.quantize_model()  # only now
    made.tensors_range |= {form.tensor: (-4.0, 4.0) for form in made.current_plan().activations()}
    made.quantize_model()
    assert model.SerializeToString() == before


def test_a_quantizer_may_be_used_alone(rng: np.random.Generator) -> None:
    made = quantizer(linear_bias(), FEEDS)
    model = made.quantize_model()
    feed = {"x": rng.normal(size=(2, 3, 8)).astype(np.float32)}
    assert sqnr(run(linear_bias(), feed)["y"], run(model, feed)["y"]) > 30
    assert made.quantize_model().SerializeToString() == model.SerializeToString()


# ---- look-ups ----


def test_look_ups_ask_the_parent_what_they_do_not_know() -> None:
    outer, inner = (_Device(linear_bias()) for _ in range(2))
    inner.parent = outer
    value = outer.store("w", _tensor(outer))
    assert inner.find_quantized_value("w") is value
    assert inner.find_quant_scale_zp("w") == ("w_scale", "w_zero_point")
    assert inner.quantized_tensor(value.q_name, _tensor(outer).params.spec).codes.tolist() == [1, 2]
    own = inner.store("w", _tensor(inner))
    assert inner.find_quantized_value("w") is own
    assert outer.find_quantized_value("w") is value


def test_look_ups_of_nothing_find_nothing() -> None:
    made = _Device(linear_bias())
    assert made.find_quantized_value("w") is None
    assert made.find_quant_scale_zp("w") == (None, None)
    with pytest.raises(OptionError, match=r"no codes are called 'w_quantized'; keep them with store\(\)"):
        made.quantized_tensor("w_quantized", made.options.rules.weight)


def test_a_bias_needs_a_quantized_input_and_weight() -> None:
    with pytest.raises(OptionError, match="bias 'a_b': 'x' is not quantized, so the bias has no scale"):
        _Device(linear_bias()).quantize_bias_static("a_b", "x", "a_w")


def test_a_constant_must_be_one() -> None:
    with pytest.raises(OptionError, match="the model has no constant 'a_ww' \\(did you mean 'a_w'"):
        _Device(linear_bias()).float_array("a_ww")


def _tensor(made: QDQQuantizer) -> QuantizedTensor:
    spec = made.options.rules.weight
    return QuantizedTensor(np.array([1, 2], np.int8), QuantParams(np.float32(0.5), np.int8(0), spec))  # type: ignore[arg-type]


# ---- numbers ----


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_weights_scale_grows_so_that_a_huge_bias_fits(per_channel: bool) -> None:
    feeds = normals(4, {"x": (3, 8)})
    plain = {"QDQDisableWeightAdjustForInt32Bias": True}
    clipped = quantized(huge_bias(), feeds, per_channel=per_channel, extra_options=plain)
    grown = quantized(huge_bias(), feeds, per_channel=per_channel)
    real = constants(huge_bias())["c"]
    error = {
        name: np.abs(constants(model)["c_quantized"] * constants(model)["c_scale"] - real)
        for name, model in (("clipped", clipped), ("grown", grown))
    }
    assert error["grown"][2] < 1e-3
    assert (constants(grown)["w_scale"] >= constants(clipped)["w_scale"]).all()
    if per_channel:  # its column's weights are a billion times smaller than the others
        assert error["clipped"][2] > 900
        unchanged = [0, 1, 3, 4]
        assert (constants(grown)["w_scale"][unchanged] == constants(clipped)["w_scale"][unchanged]).all()
    assert sqnr(run(huge_bias(), feeds[0])["y"], run(grown, feeds[0])["y"]) > 40


@pytest.mark.parametrize("make", [half, half_subnormal])
def test_float16_models_keep_their_weights(make: Callable[[], onnx.ModelProto]) -> None:
    shape = (2, 16) if make is half_subnormal else (2, 3, 8, 8)
    feeds = [{"x": feed["x"].astype(np.float16)} for feed in normals(4, {"x": shape})]
    model = quantized(make(), feeds)
    found = constants(model)
    assert {found[name].dtype for name in found if name.endswith("_scale")} == {np.dtype(np.float16)}
    codes = [found[name] for name in found if name.endswith("w_quantized")]
    assert codes
    assert all((one != 0).mean() > 0.9 for one in codes)  # amax / 127 is no normal float16 in one of them
    assert sqnr(run(make(), feeds[0])["y"], run(model, feeds[0])["y"]) > 25


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_weight_that_is_not_finite_is_an_error_that_names_it(bad: float, per_channel: bool) -> None:
    model = linear_bias()
    for tensor in model.graph.initializer:
        if tensor.name == "b_w":
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[3, 4] = bad
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, "b_w"))
    made = _Device(onnx.shape_inference.infer_shapes(model), per_channel=per_channel)
    made.tensors_range = {form.tensor: (-1.0, 1.0) for form in made.current_plan().activations()}
    with pytest.raises(QuantRangeError) as caught:
        made.quantize_model()
    assert str(caught.value).startswith("constant 'b_w' cannot be quantized: the tensor holds NaN or infinite values")
    assert "nodes_to_exclude" in str(caught.value)
    assert caught.value.tensor == "b_w"


def test_fixed_numbers_are_written_as_they_are() -> None:
    overrides = {
        "x": [{"scale": 0.125, "zero_point": np.uint8(100)}],
        "a_w": [{"axis": 1, "scale": 0.01, "zero_point": 0}, *[{"scale": 0.02, "zero_point": 0}] * 7],
        "b_w": [{"rmin": -1.27, "rmax": 1.27}],
    }
    found = constants(quantized(linear_bias(), FEEDS, extra_options={"TensorQuantOverrides": overrides}))
    assert (found["x_scale"], found["x_zero_point"]) == (0.125, 100)
    assert found["a_w_scale"].tolist() == pytest.approx([0.01, *[0.02] * 7])
    expected = np.clip(np.rint(constants(linear_bias())["a_w"] / found["a_w_scale"]), -127, 127)
    np.testing.assert_array_equal(found["a_w_quantized"], expected)
    assert np.unique(found["b_w_scale"]).tolist() == pytest.approx([0.01])


def test_two_forms_of_a_weight_are_each_rounded_with_their_own_scales() -> None:
    model = quantized(both_ways(), normals(4, {"x": (2, 8)}))
    found, real = constants(model), constants(both_ways())["a_w"]
    for name, axis in (("a_w", 1), ("a_w_2", 0)):
        scale = np.expand_dims(found[f"{name}_scale"], 1 - axis)
        np.testing.assert_allclose(found[f"{name}_scale"], np.abs(real).max(axis=1 - axis) / 127, rtol=1e-6)
        assert np.abs(found[f"{name}_quantized"] * scale - real).max() <= scale.max() / 2 + 1e-6


def test_dequantizing_the_codes_gives_the_weight_within_half_a_step() -> None:
    made = quantizer(linear_bias(), FEEDS)
    for key, tensor in made.solve().constants.items():
        real = made.float_array(key)
        step = tensor.params.scale.astype(np.float64)
        assert (np.abs(dequantize(tensor.codes, tensor.params) - real) <= step / 2 * 1.0001 + 1e-7).all()
