"""From ranges and statistics of activations to scales and zero points."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqonnx.calibration.statistics.histogram import Histogram
from vqonnx.calibration.statistics.min_max import MinMax
from vqonnx.calibration.statistics.moving_average import MovingAverage
from vqonnx.calibration.statistics.profile import Profile
from vqonnx.core.plan import Plan, Role, TensorPlan
from vqonnx.core.qtype import INT8, UINT8
from vqonnx.core.spec import QuantSpec, RangeMethod
from vqonnx.errors import OptionError, QuantRangeError, SampleError
from vqonnx.quantizers.ranges import RangeRules, activation_params, planned_params

REALS = st.floats(-1e3, 1e3)
FLOAT32 = np.dtype(np.float32)


def activation(key: str, **more: Any) -> TensorPlan:
    made = {"spec": QuantSpec(qtype=UINT8), "method": RangeMethod.MIN_MAX, "group": key, "tensor": key, **more}
    return TensorPlan(key=key, role=Role.ACTIVATION, **made)


def solved(*tensors: TensorPlan, ranges: dict[str, Any], rules: RangeRules = RangeRules()) -> dict[str, Any]:  # noqa: B008 - frozen
    plan = Plan(target="t", tensors={tensor.key: tensor for tensor in tensors})
    return activation_params(plan, ranges, rules, lambda _: FLOAT32)


class Peer:
    """A TensorData of onnxruntime.quantization."""

    range_value = (np.array(-1, np.float32), np.array(3, np.float32))


@pytest.mark.parametrize("known", [(-1.0, 3.0), [np.float32(-1), np.float32(3)], MinMax(-1.0, 3.0, 2), Peer()])
def test_a_range_may_be_a_pair_a_statistic_or_the_peers(known: Any) -> None:
    params = solved(activation("x"), ranges={"x": known})["x"]
    assert float(params.scale) == pytest.approx(4 / 255)
    assert int(params.zero_point) == 64
    assert params.scale.shape == ()


@given(a=st.tuples(REALS, REALS), b=st.tuples(REALS, REALS))
def test_a_group_has_the_scale_of_the_union(a: tuple[float, float], b: tuple[float, float]) -> None:
    pairs = {"a": tuple(sorted(a)), "b": tuple(sorted(b))}
    found = solved(activation("a"), activation("b", group="a"), activation("m", group="a", method=None), ranges=pairs)
    low, high = min(0, *(p[0] for p in pairs.values())), max(0, *(p[1] for p in pairs.values()))
    expected = (high - low) / 255 or 1.0
    for params in found.values():
        assert float(params.scale) == pytest.approx(max(expected, 2.0**-126), rel=1e-6)
        assert params.scale == found["a"].scale
        assert params.zero_point == found["a"].zero_point


def test_a_fixed_member_speaks_for_its_group() -> None:
    fixed = activation("b", group="a", method=None, fixed=(np.array([0.5]), np.array([3])))
    found = solved(activation("a"), fixed, ranges={"a": (-100.0, 100.0)})
    assert {(float(params.scale), int(params.zero_point)) for params in found.values()} == {(0.5, 3)}
    assert {params.scale.shape for params in found.values()} == {()}


def test_given_bounds_need_no_measurement() -> None:
    params = solved(activation("x", bounds=(0.0, 1.0), method=None), ranges={})["x"]
    assert float(params.scale) == pytest.approx(1 / 255)


def test_a_range_may_be_centred_and_widened() -> None:
    centred = solved(activation("x"), ranges={"x": (-1.0, 3.0)}, rules=RangeRules(symmetric=True))["x"]
    assert float(centred.scale) == pytest.approx(6 / 255)
    assert int(centred.zero_point) in (127, 128)  # the middle of 256 codes lies between two
    wide = solved(activation("x"), ranges={"x": (0.0, 1e-9)}, rules=RangeRules(least_range=0.255))["x"]
    assert float(wide.scale) == pytest.approx(0.001)


def test_a_symmetric_type_has_its_zero_in_the_middle() -> None:
    spec = QuantSpec(qtype=INT8, symmetric=True)
    params = solved(activation("x", spec=spec), ranges={"x": (0.0, 127.0)})["x"]
    assert (float(params.scale), int(params.zero_point)) == (1.0, 0)


def test_a_tensor_without_a_range_is_an_error() -> None:
    with pytest.raises(OptionError) as caught:
        solved(activation("x"), ranges={})
    assert str(caught.value).startswith("tensors_range has no range for tensor 'x'; calibrate it, give it a range, or")
    assert caught.value.option == "tensors_range"


@pytest.mark.parametrize("nothing", [MinMax(), Histogram(), Profile(), MovingAverage()])
def test_a_tensor_of_which_nothing_was_observed_is_an_error(nothing: Any) -> None:
    with pytest.raises(
        SampleError, match=r"tensor 'x' is empty in every calibration sample.*nodes_to_exclude"
    ) as caught:
        solved(activation("x"), ranges={"x": nothing})
    assert caught.value.tensor == "x"


@pytest.mark.parametrize("bad", [(math.nan, 1.0), (0.0, math.inf), (3.0, 1.0)])
def test_a_range_that_no_scale_fits_is_an_error_that_names_its_tensor(bad: tuple[float, float]) -> None:
    with pytest.raises(QuantRangeError, match="tensor 'x': a range must") as caught:
        solved(activation("x"), ranges={"x": bad})
    assert caught.value.tensor == "x"


def test_a_scale_takes_the_models_type() -> None:
    half = planned_params(activation("x"), (0.0, 1.0), np.dtype(np.float16))
    assert half.scale.dtype == np.float16
