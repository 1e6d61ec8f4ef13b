"""The public enumerations, and that the methods they name work in the whole flow."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.numpy_helper import to_array

from models.matmuls import linear_bias
from tests.quantizers.flow import normals
from vqonnx import CalibrationMethod, PowerOfTwoMethod, quantize_static
from vqonnx.core.qtype import INT8
from vqonnx.core.spec import QuantSpec, RangeMethod, ScaleGrid
from vqonnx.errors import OptionError
from vqonnx.kernels.scale_grid import on_grid
from vqonnx.targets.cpu import CPU_X86_VNNI

FEEDS = normals(16, {"x": (2, 3, 8)})


def test_every_calibration_method_is_a_range_method():
    assert {member.method for member in CalibrationMethod} == set(RangeMethod)


@pytest.mark.parametrize(
    ("member", "mode", "method"),
    [
        ("NonOverflow", "All", RangeMethod.MIN_MAX),
        ("NonOverflow", "MostCommon", RangeMethod.MIN_MAX),
        ("MinMSE", "All", RangeMethod.MSE),
        ("MinMSE", "Percentile", RangeMethod.PERCENTILE_MSE),
        ("minmse", "MostCommon", RangeMethod.MOST_COMMON),
    ],
)
def test_power_of_two_methods_and_modes(member, mode, method):
    assert PowerOfTwoMethod.of(member).method(mode) is method


def test_an_unknown_mode_names_the_nearest():
    with pytest.raises(OptionError, match=r"'Most' is no mode of PowerOfTwoMethod\.MinMSE \(did you mean 'MostCommon'"):
        PowerOfTwoMethod.MinMSE.method("Most")


@pytest.mark.parametrize("method", ["PercentileMSE", "LayerwisePercentile", "MostCommon"])
@pytest.mark.parametrize("grid", [*ScaleGrid])
def test_methods_and_grids_go_through_the_whole_flow(method, grid, tmp_path: Path):
    target = replace(
        CPU_X86_VNNI,
        activation=replace(CPU_X86_VNNI.activation, grid=grid),
        weight=QuantSpec(qtype=INT8, symmetric=True, grid=grid),
    )
    path, chosen = tmp_path / "q.onnx", CalibrationMethod.of(method)
    report = quantize_static(
        linear_bias(), path, FEEDS, target=target, calibrate_method=chosen, progress=lambda *_: None
    )
    assert report.verification.worst_db > 20
    scales = {one.name: to_array(one) for one in onnx.load(path).graph.initializer if "_scale" in one.name}
    assert len(scales) > 5
    for name, scale in scales.items():
        if not name.startswith(("a_b", "b_b")):  # a bias has the product of two scales
            np.testing.assert_array_equal(on_grid(scale, grid), scale)
