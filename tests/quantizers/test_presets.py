"""Presets are names for arguments: what they plan, and that arguments win."""

import pytest

from tests.quantizers.vitis_models import network
from vqonnx import QuantType, plan
from vqonnx.core.granularity import PerAxis
from vqonnx.core.plan import Role
from vqonnx.core.spec import ScaleGrid
from vqonnx.errors import OptionError
from vqonnx.targets.presets import PRESETS

INTEGERS = {  # activation type and symmetry, weights per channel, bias
    "xint8": ("int8", True, False, "int8"),
    "a8w8": ("int8", True, False, "int32"),
    "a16w8": ("int16", True, True, "int32"),
    "s8s8": ("int8", False, False, "int32"),
    "u8s8": ("uint8", False, False, "int32"),
    "s16s8": ("int16", True, False, "int32"),
    "u16s8": ("uint16", False, False, "int32"),
}
FLOATS = {"bf16": "bfloat16", "mxfp4": "mxfp4_e2m1"}
"""Those whose type has another name."""


def test_they_are_those_of_the_device():
    assert set(PRESETS) == {
        *INTEGERS, "bf16", "bfp16", "mx9", "mx6", "mx4", "mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e3m2", "mxfp6_e2m3",
        "mxfp4", "mxint8",
    }  # fmt: skip


@pytest.mark.parametrize("name", list(PRESETS))
def test_each_plans_its_types(name):
    made = plan(network(), preset=name)
    assert made.target == ("vitis-npu-cnn" if name == "xint8" else "vitis")
    assert len(made.nodes) == 7 + (name == "xint8")  # and the device's factor of the average
    specs = {role: [one.spec for one in made.tensors.values() if one.role is role] for role in Role}
    grids = {spec.grid for all_of_role in specs.values() for spec in all_of_role}
    assert (ScaleGrid.POWER_OF_TWO in grids) == (name == "xint8")
    if name not in INTEGERS:
        qtype = FLOATS.get(name, name)
        assert {spec.qtype.name for spec in (*specs[Role.ACTIVATION], *specs[Role.WEIGHT])} == {qtype}
        assert {spec.qtype.name for spec in specs[Role.BIAS]} == {qtype if name == "bf16" else "float32"}
        return
    activation, symmetric, per_channel, bias = INTEGERS[name]
    assert {(spec.qtype.name, spec.symmetric) for spec in specs[Role.ACTIVATION]} == {(activation, symmetric)}
    assert {(spec.qtype.name, spec.symmetric) for spec in specs[Role.WEIGHT]} == {("int8", True)}
    assert {isinstance(spec.granularity, PerAxis) for spec in specs[Role.WEIGHT]} == {per_channel}
    assert {spec.qtype.name for spec in specs[Role.BIAS]} == {bias}


def test_arguments_and_options_win():
    made = plan(
        network(), preset="A16W8", weight_type=QuantType.QInt16, per_channel=False,
        extra_options={"ActivationSymmetric": False},
    )  # fmt: skip
    weights = [one.spec for one in made.tensors.values() if one.role is Role.WEIGHT]
    assert {(spec.qtype.name, isinstance(spec.granularity, PerAxis)) for spec in weights} == {("int16", False)}
    assert not any(one.spec.symmetric for one in made.activations())


def test_the_constrained_target_takes_no_scales_a_channel():
    with pytest.raises(OptionError, match="per_channel: target vitis-npu-cnn shifts whole tensors"):
        plan(network(), preset="xint8", per_channel=True)
