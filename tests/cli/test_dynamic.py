"""``vqonnx dynamic``."""

import json

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from models import digits
from vqonnx.cli.main import app


def run(*arguments: object):
    return CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "120"})


def test_a_model_is_quantized_and_the_report_printed(tmp_path):
    out, told = tmp_path / "q.onnx", tmp_path / "report.json"
    result = run("dynamic", digits.MODEL, out, "--weight-type", "uint8", "--per-tensor", "--json", told)
    assert result.exit_code == 0, result.output
    assert "Gemm" in result.output
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(out).graph.initializer}
    assert any(array.dtype == np.uint8 and array.ndim == 2 for array in stored.values())
    assert json.loads(told.read_text())["quantized"] == {"Gemm": 2}


def test_samples_are_compared(tmp_path):
    for index, feed in enumerate(digits.calibration_samples(16)):
        np.savez(tmp_path / f"{index}.npz", **feed)
    result = run("dynamic", digits.MODEL, tmp_path / "q.onnx", "--samples", tmp_path, "--op-type", "Conv")
    assert result.exit_code == 0, result.output
    assert "dB" in result.output


@pytest.mark.parametrize("arguments", [("--exclude", "nothing"), ("--op-type", "Pool"), ("--target", "abacus")])
def test_mistakes_end_with_one_line(arguments, tmp_path):
    result = run("dynamic", digits.MODEL, tmp_path / "q.onnx", *arguments)
    assert result.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_quiet_is_quiet(tmp_path):
    assert run("dynamic", digits.MODEL, tmp_path / "q.onnx", "--quiet").output == ""
