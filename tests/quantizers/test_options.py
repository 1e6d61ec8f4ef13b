"""Arguments and ``extra_options`` of the quantizer classes as typed values, and every mistake in them."""

from dataclasses import replace
from enum import Enum
from typing import Any

import pytest

from models.precision import half
from models.registry import load as load_cases
from vqonnx.core.qtype import INT4, INT8, INT16, UINT8
from vqonnx.core.spec import RangeMethod
from vqonnx.errors import OptionError
from vqonnx.graph.io import load
from vqonnx.quantizers.extra_options import ExtraOptions, parse_extra_options
from vqonnx.quantizers.opset import needed_opset
from vqonnx.quantizers.options import DEFAULT_METHODS, QuantizerOptions, resolve_target
from vqonnx.quantizers.types import CalibrationMethod, QuantFormat, QuantizationMode, QuantType
from vqonnx.runtime.machine import cpu_target_name
from vqonnx.targets.cpu import CPU_X86_AVX2, CPU_X86_VNNI
from vqonnx.targets.directml import DIRECTML

PLAIN = load_cases()["matmuls/2d"].build


def options(**arguments: Any) -> QuantizerOptions:
    return QuantizerOptions.of(**{"target": CPU_X86_VNNI, **arguments})


def extra(**values: Any) -> QuantizerOptions:
    return options(extra_options=values)


# ---- extra_options ----


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("ActivationSymmetric", True, lambda o: o.rules.activation.symmetric is True),
        ("WeightSymmetric", False, lambda o: o.rules.weight.symmetric is False),
        ("WeightSymmetric", None, lambda o: o.rules.weight.symmetric is True),
        ("ForceQuantizeNoInputCheck", True, lambda o: o.rules.everything),
        ("MatMulConstBOnly", True, lambda o: not o.rules.dynamic_matmul),
        ("CalibTensorRangeSymmetric", True, lambda o: o.ranges.symmetric),
        ("CalibMovingAverage", True, lambda o: o.rules.method is RangeMethod.MOVING_AVERAGE),
        ("CalibMovingAverageConstant", 0.5, lambda o: o.moving_average == 0.5),
        ("CalibMaxIntermediateOutputs", 3, lambda o: o == options()),
        ("CalibPercentile", 99, lambda o: o.ranges.options.percentile == 99),
        ("QuantizeBias", False, lambda o: not o.rules.quantize_bias),
        ("UseQDQContribOps", True, lambda o: o.rules.contrib),
        ("MinimumRealRange", 0.25, lambda o: o.ranges.least_range == 0.25),
        ("QDQKeepRemovableActivations", True, lambda o: o.rules.keep_clips),
        ("QDQDisableWeightAdjustForInt32Bias", True, lambda o: not o.grow_weight_scale),
        ("TensorQuantOverrides", {"x": [{"symmetric": True}]}, lambda o: o.rules.overrides["x"].symmetric is True),
        ("ActivationRestrictedAsymmetric", True, lambda o: o.ranges.restricted),
        ("extra.Sigmoid.nnapi", True, lambda o: o.rules.sigmoid_256),
        ("EnableSubgraph", False, lambda o: not o.rules.bodies),
        ("AddQDQPairToWeight", True, lambda o: o.rules.weight_pairs),
        ("OpTypesToExcludeOutputQuantization", ["Conv"], lambda o: o.rules.float_outputs == {"Conv"}),
        ("DedicatedQDQPair", True, lambda o: o.rules.own_pairs),
        ("QDQOpTypePerChannelSupportToAxis", {"MatMul": 0}, lambda o: o.rules.channel_axes == {"MatMul": 0}),
        ("CalibStridedMinMax", 2, lambda o: o == options()),
        ("SmoothQuant", True, lambda o: o.smoothing is not None),
        ("SmoothQuantAlpha", 0.7, lambda o: o == options()),
        ("SmoothQuantFolding", False, lambda o: o == options()),
        ("BlockSize", 16, lambda o: o.rules.block_size == 16),
        ("DefaultTensorType", 1, lambda o: o.default_type == 1),
        ("Target", "directml", lambda o: o.target is DIRECTML),
        ("Target", DIRECTML, lambda o: o.target is DIRECTML),
    ],
)
def test_each_key_is_heard(key: str, value: Any, read: Any) -> None:
    raw = {key: value}
    assert read(extra(**raw))
    assert raw == {key: value}


def test_every_field_has_a_key_and_a_test() -> None:
    keys = {mark.args[1][i][0] for mark in test_each_key_is_heard.pytestmark for i in range(len(mark.args[1]))}  # type: ignore[attr-defined]
    assert len(keys) == len(ExtraOptions.__dataclass_fields__)


def test_an_unknown_key_is_an_error_that_offers_the_nearest() -> None:
    with pytest.raises(OptionError) as caught:
        parse_extra_options({"ActivationSymetric": True})
    assert str(caught.value).startswith(
        "extra_options: 'ActivationSymetric' is no option (did you mean 'ActivationSymmetric'"
    )
    assert "Known are ActivationRestrictedAsymmetric, ActivationSymmetric, " in str(caught.value)
    assert caught.value.option == "ActivationSymetric"


@pytest.mark.parametrize(
    ("key", "value", "taken"),
    [
        ("ActivationSymmetric", 1, "True or False"),
        ("WeightSymmetric", "yes", "True or False"),
        ("QuantizeBias", None, "True or False"),
        ("CalibPercentile", "99", "a number"),
        ("CalibPercentile", True, "a number"),
        ("CalibMovingAverageConstant", 0.0, "a number in (0, 1]"),
        ("CalibMovingAverageConstant", 1.5, "a number in (0, 1]"),
        ("CalibMaxIntermediateOutputs", "3", "a whole number"),
        ("MinimumRealRange", -1.0, "a number >= 0"),
        ("MinimumRealRange", float("inf"), "a number >= 0"),
        ("Target", 3, "a target or the name of one"),
    ],
)
def test_a_value_of_the_wrong_kind_is_an_error(key: str, value: Any, taken: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_extra_options({key: value})
    assert str(caught.value) == f"extra_options: {key!r} takes {taken}, got {value!r}."
    assert caught.value.option == key


def test_overrides_must_be_a_dictionary() -> None:
    with pytest.raises(OptionError, match="must map tensor names to lists of dictionaries, got str"):
        parse_extra_options({"TensorQuantOverrides": "x"})


# ---- arguments ----


def test_the_target_chooses_what_nobody_asked_for() -> None:
    vnni, avx2 = options(), options(target=CPU_X86_AVX2)
    assert (vnni.rules.activation, vnni.rules.weight) == (CPU_X86_VNNI.activation, CPU_X86_VNNI.weight)
    assert vnni.rules.per_channel
    assert vnni.rules.weight.reduce_range is False
    assert avx2.rules.weight.reduce_range is True
    assert vnni.methods == DEFAULT_METHODS
    plain = replace(CPU_X86_VNNI, per_channel=False, bias=False)
    assert (options(target=plain).rules.per_channel, options(target=plain).rules.quantize_bias) == (False, False)


def test_arguments_win_over_the_target() -> None:
    asked = options(
        target=CPU_X86_AVX2,
        per_channel=False,
        reduce_range=False,
        activation_type=QuantType.QInt16,
        weight_type="QInt4",
    )
    assert asked.rules.activation.qtype == INT16
    assert asked.rules.weight.qtype == INT4
    assert asked.rules.weight.reduce_range is False
    assert asked.rules.per_channel is False


@pytest.mark.parametrize(("name", "symmetric"), [("QInt8", True), ("QUInt8", False), ("QInt16", True)])
def test_the_weights_type_decides_its_symmetry(name: str, symmetric: bool) -> None:
    assert options(weight_type=name).rules.weight.symmetric is symmetric
    assert options(weight_type=name, extra_options={"WeightSymmetric": True}).rules.weight.symmetric is True


def test_a_method_that_was_asked_for_is_the_only_one() -> None:
    assert options(calibrate_method=CalibrationMethod.Entropy).methods == (RangeMethod.ENTROPY,)
    moving = options(calibrate_method=CalibrationMethod.MinMax, extra_options={"CalibMovingAverage": True})
    assert moving.methods == (RangeMethod.MOVING_AVERAGE,)


def test_cpu_is_this_machines_target() -> None:
    assert resolve_target("cpu").name == cpu_target_name()
    assert resolve_target(DIRECTML) is DIRECTML
    assert resolve_target("cpu-x86-avx2") is CPU_X86_AVX2


# ---- enumerations ----


class Foreign(Enum):
    """Another library's enumeration: matched by the name of a member, not by its number."""

    QUInt8 = 77
    QInt88 = 0


def test_a_member_is_found_by_itself_by_name_and_by_anothers_member() -> None:
    assert QuantType.of(QuantType.QInt8) is QuantType.QInt8
    assert QuantType.of("qint8") is QuantType.QInt8
    assert QuantType.of(Foreign.QUInt8) is QuantType.QUInt8


@pytest.mark.parametrize("value", ["QInt88", Foreign.QInt88])
def test_an_unknown_member_is_an_error_that_offers_the_nearest(value: object) -> None:
    with pytest.raises(OptionError) as caught:
        QuantType.of(value)
    assert f"{value!r} is no QuantType (did you mean 'QInt8'" in str(caught.value)
    assert "Known are QInt8, QUInt8" in str(caught.value)


@pytest.mark.parametrize("member", list(QuantType))
def test_each_type_is_one_of_the_core(member: QuantType) -> None:
    assert QuantType.from_qtype(member.qtype) is member


def test_each_method_is_one_of_the_core() -> None:
    assert len({member.method for member in CalibrationMethod}) == len(CalibrationMethod)


@pytest.mark.peer
@pytest.mark.parametrize("ours", [QuantType, QuantFormat, QuantizationMode, CalibrationMethod])
def test_the_peers_members_are_ours(ours: Any, peer: Any) -> None:
    theirs = getattr(peer, ours.__name__)
    for member in theirs:
        assert ours.of(member).name == member.name
    if ours is QuantType:
        assert options(activation_type=theirs.QInt8, weight_type=theirs.QUInt8).rules.activation.qtype == INT8
        assert options(weight_type=theirs.QUInt8).rules.weight.qtype == UINT8


# ---- opset ----


@pytest.mark.parametrize(
    ("arguments", "opset"),
    [
        ({}, 13),
        ({"activation_type": "QInt8"}, 13),
        ({"activation_type": "QInt16"}, 21),
        ({"weight_type": "QInt4"}, 21),
        ({"extra_options": {"TensorQuantOverrides": {"x": [{"quant_type": "QUInt16"}]}}}, 21),
        ({"extra_options": {"TensorQuantOverrides": {"x": [{"convert": {"quant_type": "QUInt16"}}]}}}, 21),
        ({"activation_type": "QInt16", "extra_options": {"UseQDQContribOps": True}}, 13),
        ({"activation_type": "QFLOAT8E4M3FN"}, 19),
    ],
)
def test_the_form_says_which_opset_it_needs(arguments: dict[str, Any], opset: int) -> None:
    assert needed_opset(load(PLAIN()), options(**arguments)) == opset


@pytest.mark.parametrize("contrib", [False, True])
def test_float16_scales_need_opset_19(contrib: bool) -> None:
    assert needed_opset(load(half()), extra(UseQDQContribOps=contrib)) == 19
