"""``vqonnx presets``, and ``--preset`` of the commands that plan."""

import json

import numpy as np
import onnx
import pytest

from tests.cli.test_cli import run
from tests.quantizers.vitis_models import SAMPLES, network
from vqonnx.report.json import from_json
from vqonnx.targets.presets import PRESETS


@pytest.fixture
def model(tmp_path):
    onnx.save(network(), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_all_are_listed_with_their_meaning():
    listed = " ".join(run("presets").stdout.split())
    for preset in PRESETS.values():
        assert f"{preset.name} {preset.target} {' '.join(preset.description.split()[:4])}" in listed


def test_a_preset_chooses_the_target_and_the_report_tells_what_the_device_runs(model, tmp_path):
    for index, feed in enumerate(SAMPLES):
        np.savez(tmp_path / f"{index}.npz", **feed)
    output, report = tmp_path / "q.onnx", tmp_path / "r.json"
    result = run("quantize", model, output, "--calibration", tmp_path, "--preset", "xint8", "--json", report)
    assert result.exit_code == 0, result.output
    read = from_json(report.read_text(encoding="utf-8"))
    assert read.target == "vitis-npu-cnn"
    assert list(read.planned.values()) == [
        "Conv", "Relu", "Conv", "Add", "GlobalAveragePool", "Mul", "Flatten", "Gemm"
    ]  # fmt: skip
    scales = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(output).graph.initializer}
    assert read.positions.keys() == {
        "x", "h", "s", "t", "GlobalAveragePool_4_dpu_output", "y", "a", "ab", "c", "cb", "f", "fb"
    }  # fmt: skip
    assert all(scales[f"{name}_scale"] == 2.0**-position for name, position in read.positions.items())
    assert {(shift.option, shift.node) for shift in read.shifts} >= {
        ("AdjustShiftCut", "Conv_0"), ("AdjustShiftBias", "Gemm_6"), ("AdjustShiftRead", "Add_3")
    }  # fmt: skip
    assert not read.violations
    assert f"{len(read.shifts)} of {len(read.shifts)} rules hold, least slack" in result.stdout
    assert "slower than float" not in result.stdout  # this machine's CPU says nothing about the device


def test_what_is_given_wins(model, tmp_path):
    result = run("plan", model, "--preset", "bfp16", "--weight-type", "int8", "--json", tmp_path / "p.json")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "p.json").read_text())
    assert found["target"] == "vitis"
    what = {row["node"]: row["what"] for row in found["nodes"]}
    assert what["Gemm_6"] == "bfp16 in blocks of 8 x int8 x float32 -> bfp16 in blocks of 8"
    assert run("plan", model, "--preset", "bfp16", "--target", "cpu-x86-vnni").exit_code == 2


def test_an_unknown_preset_is_refused_with_the_nearest(model):
    result = run("plan", model, "--preset", "xint9")
    assert (result.exit_code, "did you mean 'xint8'" in result.stderr) == (2, True)
