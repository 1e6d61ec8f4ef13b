"""``vqonnx weight-only`` as users run it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from models import weights as cases
from models.digits import MODEL
from tests.flows.packing import bfloat16_product, decoder_samples
from vqonnx.algorithms.base import algorithms
from vqonnx.cli.arguments import key_values, layer_settings
from vqonnx.cli.main import app
from vqonnx.cli.weight_only import Form, Inputs, Verify
from vqonnx.core.weight_plan import CODEBOOKS, WeightForm
from vqonnx.errors import OptionError
from vqonnx.report.figures import Level
from vqonnx.report.json import from_json


def run(*arguments: object):
    words = ["weight-only", *(str(one) for one in arguments)]
    return CliRunner().invoke(app, words, env={"COLUMNS": "120"})


@pytest.fixture
def decoder(tmp_path) -> Path:
    path = tmp_path / "decoder.onnx"
    onnx.save(cases.decoder_with_cache(), path)
    return path


@pytest.fixture
def samples(tmp_path) -> Path:
    folder = tmp_path / "samples"
    folder.mkdir()
    for index, feed in enumerate(decoder_samples()):
        np.savez(folder / f"{index:02}.npz", **feed)
    return folder


def test_help_explains_every_choice():
    result = run("--help")
    assert result.exit_code == 0
    text = " ".join(result.output.replace("\u2502", " ").split())
    assert "Usage: vqonnx weight-only" in text.replace("root ", "vqonnx ")
    for name in (*algorithms(), "--layer", "--option", "--calibration", "--no-last-matmul", "--json", "--verify"):
        assert name in text
    assert "Examples: vqonnx weight-only llm.onnx llm.int4.onnx" in text


def test_choices_are_those_of_the_library():
    assert {form.value for form in Form} == {form.value for form in WeightForm if form is not WeightForm.BNB4} | set(
        CODEBOOKS
    )
    assert [one.value for one in Inputs] == ["quantized", "float"]
    assert [one.argument for one in Verify] == [True, False, "checker"]


def test_it_writes_model_report_and_json(decoder, tmp_path):
    output, report = tmp_path / "q.onnx", tmp_path / "report.json"
    result = run(decoder, output, "--json", report, "--no-last-matmul", "--bits", 8, "--block-size", 16, "--symmetric")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    text = " ".join(result.stdout.split())
    for part in (
        "4 packed: rtn 4",
        "SQNR of the weights: worst",
        "size",
        "each packed layer ran beside its weight",
        "8 bits, block 16",
        "nearest to the outputs (last_matmul=False)",
    ):
        assert part in text
    read = from_json(report.read_text(encoding="utf-8"))
    assert [(one.bits, one.block_size, one.symmetric) for one in read.weights] == [(8, 16, True)] * 4
    assert read.verification.level is Level.LAYERS
    assert sum(node.op_type == "MatMulNBits" for node in onnx.load(output).graph.node) == 4


def test_samples_options_and_layers_reach_the_algorithm(decoder, samples, tmp_path):
    report = tmp_path / "report.json"
    result = run(
        *(decoder, tmp_path / "q.onnx", "--algorithm", "gptq", "--calibration", samples, "--json", report),
        *("--option", "damping=0.05", "--layer", "op:Gather:bits=8", "--layer", "MatMul_[12]:algorithm=rtn"),
        *("--op-type", "MatMul", "--op-type", "Gather", "--exclude", "MatMul_10", "--inputs", "float"),
    )
    assert result.exit_code == 0, result.output
    assert "SQNR of the outputs on held-back samples" in " ".join(result.stdout.split())
    read = from_json(report.read_text(encoding="utf-8"))
    asked = {one.nodes[0]: (one.asked, one.bits) for one in read.weights}
    assert asked["MatMul_1"] == asked["MatMul_2"] == ("rtn", 4)
    assert asked["MatMul_6"] == asked["MatMul_8"] == ("gptq", 4)
    assert asked["Gather_0"][1] == 8
    assert "MatMul_10" not in asked
    assert (read.samples, read.verification.samples) == (14, 2)


@pytest.mark.parametrize("form", list(Form))
def test_every_format_is_written(form, decoder, tmp_path):
    result = run(decoder, tmp_path / "q.onnx", "--format", form.value, "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    operators = {node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node}
    assert operators & {"MatMulNBits", "DequantizeLinear", "MatMulBnb4"}


def test_quiet_prints_nothing(decoder, tmp_path):
    result = run(decoder, tmp_path / "q.onnx", "-q")
    assert (result.exit_code, result.output) == (0, "")


def test_what_cannot_be_run_is_written_with_the_checker_alone(tmp_path):
    path = tmp_path / "half.onnx"
    onnx.save(bfloat16_product(), path)
    refused = run(path, tmp_path / "q.onnx")
    assert refused.exit_code == 2
    assert "bfloat16" in refused.stderr
    written = run(path, tmp_path / "q.onnx", "--verify", "checker")
    assert written.exit_code == 0, written.output
    assert "valid ONNX, never loaded" in " ".join(written.stdout.split())


def test_quantized_weights_are_packed_anew_on_request(tmp_path):
    path = tmp_path / "quantized.onnx"
    onnx.save(cases.quantized("channels"), path)
    kept = run(path, tmp_path / "q.onnx")
    assert kept.exit_code == 0
    assert "quantized already" in kept.output
    assert (tmp_path / "q.onnx").read_bytes() == path.read_bytes()
    assert run(path, tmp_path / "q.onnx", "--already-quantized", "refuse").exit_code == 2
    assert run(path, tmp_path / "q.onnx", "--requantize", "-q").exit_code == 0
    assert (tmp_path / "q.onnx").read_bytes() != path.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--algorithm", "gptp"), "did you mean 'gptq'"),
        (("--algorithm", "gptq"), "'gptq' learns from samples, and there are none"),
        (("--algorithm", "gptq", "--calibration", "absent"), "calibration folder 'absent' does not exist"),
        (("--bits", "3"), "bits must be one of (2, 4, 8), got 3"),
        (("--block-size", "-1"), "has no scale per channel"),
        (("--layer", "bits=8"), "--layer: 'bits=8' is not of the form PATTERN:KEY=VALUE"),
        (("--layer", "MatMul_1:bits"), "--layer: 'bits' is not of the form KEY=VALUE"),
        (("--layer", "MatMul_1:bit=8"), "did you mean 'bits'"),
        (("--layer", "absent:bits=8"), "'absent' matches no node"),
        (("--option", "quantile"), "--option: 'quantile' is not of the form KEY=VALUE"),
        (("--option", "quantil=0.5"), "did you mean 'quantile'"),
        (("--exclude", "absent"), "'absent' matches no node"),
        (("--provider", "NoExecutionProvider"), "execution provider 'NoExecutionProvider' is not in this onnxruntime"),
    ],
)
def test_errors_are_one_line_on_stderr(arguments, message, decoder, tmp_path):
    result = run(decoder, tmp_path / "q.onnx", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("vqonnx: error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "q.onnx").exists()


def test_a_model_with_nothing_to_pack_says_why(tmp_path):
    result = run(MODEL, tmp_path / "q.onnx", "--op-type", "Gather")
    assert result.exit_code == 2
    assert "no weight of the model can be packed as asked" in result.stderr
    assert "is not in op_types_to_quantize" in result.stderr


@pytest.mark.parametrize("value", ["yes", "2"])
def test_unknown_choices_name_the_known_ones(value, decoder, tmp_path):
    result = run(decoder, tmp_path / "q.onnx", "--verify", value)
    assert result.exit_code == 2
    assert "checker" in result.stderr


def test_settings_of_layers_and_options_are_read_as_typed():
    assert layer_settings(["re:a:b:bits=8,symmetric=true,algorithm=rtn", "x:block_size=64"]) == {
        "re:a:b": {"bits": 8, "symmetric": True, "algorithm": "rtn"},
        "x": {"block_size": 64},
    }
    assert layer_settings(None) == {}
    assert key_values(["a=0.5", " b = False ", "c=name", "d=1=2"]) == {"a": 0.5, "b": False, "c": "name", "d": "1=2"}
    with pytest.raises(OptionError, match="--option: '=1' is not of the form KEY=VALUE"):
        key_values(["=1"])
