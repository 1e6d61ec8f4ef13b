"""``vqonnx convert`` as users run it."""

import pytest
from typer.testing import CliRunner

from models.registry import load as load_cases
from tests.emitters.weights.packing import pack_model
from tests.emitters.weights.test_matmul_nbits import normal, product
from vqonnx.api.convert import convert_weights
from vqonnx.cli.convert import Form
from vqonnx.cli.main import app
from vqonnx.core.weight_plan import WeightForm
from vqonnx.graph.io import load, save


def run(*arguments: object):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)], env={"COLUMNS": "120"})


@pytest.fixture
def packed(rng, tmp_path):
    save(pack_model(product(normal(rng, 64, 8))).model, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def test_a_model_is_converted_and_summed_up(packed, tmp_path):
    result = run(packed, tmp_path / "q.onnx", "--to", "qdq")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "converted 1 weights to qdq" in result.stdout
    assert "MatMulNBits" not in {node.op_type for node in load(tmp_path / "q.onnx").graph}
    result = run(tmp_path / "q.onnx", tmp_path / "q.onnx", "--to", "matmul_nbits", "--accuracy-level", "1", "--no-load")
    assert result.exit_code == 0
    (node,) = load(tmp_path / "q.onnx").graph
    assert (node.op_type, node.attributes["accuracy_level"].as_int()) == ("MatMulNBits", 1)


def test_what_stays_is_listed(tmp_path):
    save(pack_model(load_cases()["weights/tied"].build()).model, tmp_path / "m.onnx")
    result = run(tmp_path / "m.onnx", tmp_path / "q.onnx", "--to", "qdq")
    assert "x GatherBlockQuantized: GatherBlockQuantized has no form with DequantizeLinear" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["q.onnx", "--to", "matmul_nbits"], "no packed weight that could become 'matmul_nbits'"),
        (["no/q.onnx", "--to", "qdq"], "does not exist"),
    ],
)
def test_errors_are_one_line_on_stderr(packed, tmp_path, arguments, text):
    result = run(packed, tmp_path / arguments[0], *arguments[1:])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("vqonnx: error: ")
    assert result.stderr.count("\n") == 1
    assert text in result.stderr


def test_help_teaches():
    result = run("--help")
    for part in ("without loss", "--to", "qdq", "matmul_nbits", "--accuracy-level", "Example: vqonnx convert"):
        assert part in result.output


def test_the_forms_are_those_of_the_library():
    assert {form.value for form in Form} <= {form.value for form in WeightForm}
    assert convert_weights.__doc__
