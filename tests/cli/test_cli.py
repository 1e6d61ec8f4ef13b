"""The command line as users run it: output on stdout, one line on stderr, exit codes, and quick help."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from models import digits
from vqonnx.cli.arguments import calibration_method
from vqonnx.cli.main import app
from vqonnx.cli.options import ElementType, Format, Method
from vqonnx.core.qtype import QTYPES
from vqonnx.core.spec import RangeMethod
from vqonnx.core.target import Form
from vqonnx.errors import VerificationError
from vqonnx.report.json import from_json
from vqonnx.version import __version__

ROOT = Path(__file__).parents[2]
MODEL = str(digits.MODEL)


def run(*arguments: object):
    return CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "120"})


def process(*arguments: str, code: str = "") -> subprocess.CompletedProcess[str]:
    start = ["-c", code] if code else ["-m", "vqonnx"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *start, *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    for index, feed in enumerate(digits.calibration_samples(16)):
        np.savez(folder / f"{index}.npz", **feed)
    return folder


def test_version_is_printed():
    result = process("--version")
    assert (result.returncode, result.stdout) == (0, f"vqonnx {__version__}\n")


def test_no_command_shows_help():
    assert "quantize" in run().output


@pytest.mark.parametrize("command", ["quantize", "plan", "compare", "targets"])
def test_every_command_explains_itself(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output
    assert command == "targets" or f"Example: vqonnx {command} " in result.output


def test_help_loads_nothing_that_computes():
    heavy = ("numpy", "onnx", "onnx_ir", "onnxruntime", "numba", "sympy", "ml_dtypes")
    code = (
        "import sys\nfrom vqonnx.cli.main import main\ntry:\n    main()\nfinally:\n"
        f"    print('loaded:', [name for name in {heavy!r} if name in sys.modules])"
    )
    assert "loaded: []" in process("quantize", "--help", code=code).stdout


def test_choices_are_those_of_the_library():
    assert [one.value for one in Method] == [one.value for one in RangeMethod]
    assert [calibration_method(one).method.value for one in Method] == [one.value for one in RangeMethod]
    assert {one.value for one in ElementType} <= set(QTYPES)
    assert [one.value for one in Format] == [one.value.lower() for one in Form]


def test_quantize_writes_model_report_and_json(samples, tmp_path):
    output, report = tmp_path / "q.onnx", tmp_path / "report.json"
    result = run("quantize", MODEL, output, "--calibration", samples, "--json", report, "--method", "minmax")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    for part in ("quantized", "kernels", "size", "speed", "logits"):
        assert part in result.stdout
    read = from_json(report.read_text(encoding="utf-8"))
    assert read.verified
    assert read.verification.worst_db > 20
    assert output.stat().st_size == read.verification.sizes.quantized_bytes


def test_quiet_prints_nothing(samples, tmp_path):
    result = run(
        *("quantize", MODEL, tmp_path / "q.onnx", "--calibration", samples, "--quiet", "--no-guard"),
        *("--bias-correction", "off", "--per-tensor", "--weight-type", "int8", "--op-type", "Gemm"),
    )
    assert (result.exit_code, result.output) == (0, "")


def test_plan_lists_every_node_with_its_reason(tmp_path):
    result = run("plan", MODEL, "--exclude", "*conv2d*", "--json", tmp_path / "plan.json")
    assert result.exit_code == 0, result.output
    rows = json.loads((tmp_path / "plan.json").read_text())["nodes"]
    reasons = {row["node"]: row["why"] for row in rows if row["what"] == "float"}
    assert reasons["node_conv2d"] == "excluded by nodes_to_exclude"
    assert all(row["node"] in result.stdout for row in rows)
    assert any("uint8 x int8 per channel" in row["what"] for row in rows)


def test_the_form_of_the_graph_can_be_chosen(samples, tmp_path):
    result = run("plan", MODEL, "--format", "qoperator", "--json", tmp_path / "plan.json")
    assert result.exit_code == 0, result.output
    assert "in QOperator form" in result.stdout
    assert json.loads((tmp_path / "plan.json").read_text())["form"] == "QOperator"
    output = tmp_path / "q.onnx"
    assert run("quantize", MODEL, output, "--calibration", samples, "--format", "qoperator", "-q").exit_code == 0
    assert {"QLinearConv", "QGemm"} <= {node.op_type for node in onnx.load(output).graph.node}


def test_compare_tells_the_figures_of_outputs_and_of_tensors(samples):
    result = run("compare", MODEL, MODEL, "--samples", samples)
    assert (result.exit_code, "exact" in result.stdout) == (0, True)
    inside = run("compare", MODEL, MODEL, "--samples", samples, "--tensors")
    assert len(inside.stdout.splitlines()) > len(result.stdout.splitlines())


def test_targets_are_listed_and_this_machine_is_named():
    result = run("targets")
    for part in ("cpu-x86-vnni", "directml", "this machine: cpu-"):
        assert part in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "absent.onnx"), "cannot read model 'absent.onnx'"),
        (("plan", MODEL, "--target", "cpu-x86-vni"), "target 'cpu-x86-vni' is not known (did you mean 'cpu-x86-vnni'"),
        (("plan", MODEL, "--exclude", "nonsense"), "'nonsense' matches no node"),
        (("plan", MODEL, "--json", "no/such/folder.json"), "cannot write 'no/such/folder.json': No such file"),
        (("compare", MODEL, MODEL, "--samples", "absent"), "calibration folder 'absent' does not exist"),
        (("quantize", MODEL, "no/such/q.onnx", "--calibration", "absent"), "folder 'no/such' does not exist"),
    ],
)
def test_errors_are_one_line_on_stderr(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("vqonnx: error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_messages_of_several_lines_become_one(monkeypatch):
    monkeypatch.setattr("vqonnx.targets.registry.target_names", raising(VerificationError("first\n  second")))
    assert run("targets").stderr == "vqonnx: error: first second\n"


def test_interruption_is_one_line_and_130(monkeypatch):
    monkeypatch.setattr("vqonnx.targets.registry.target_names", raising(KeyboardInterrupt()))
    result = run("targets")
    assert (result.exit_code, result.stderr) == (130, "vqonnx: interrupted, nothing was saved\n")


def test_an_unknown_choice_names_the_choices(tmp_path):
    result = run("quantize", MODEL, tmp_path / "q.onnx", "--calibration", tmp_path, "--method", "guess")
    assert result.exit_code == 2
    assert "moving-average" in result.stderr


@pytest.mark.slow
def test_errors_in_a_process_have_no_traceback():
    result = process("plan", "absent.onnx")
    assert result.returncode == 2
    assert result.stderr.startswith("vqonnx: error: cannot read model 'absent.onnx'")
    assert result.stderr.count("\n") == 1


def raising(error: BaseException):
    def fail() -> None:
        raise error

    return fail
