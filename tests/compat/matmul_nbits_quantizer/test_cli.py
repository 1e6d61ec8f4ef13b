"""``python -m vqonnx.compat.matmul_nbits_quantizer``."""

import subprocess
import sys

import numpy as np
import onnx
import pytest

from tests.compat.matmul_nbits_quantizer.shared import correlated, lookup, products
from tests.compat.protos import arrays, attributes, ops
from vqonnx.compat.matmul_nbits_quantizer.__main__ import main


@pytest.fixture
def paths(tmp_path):
    onnx.save_model(products(), tmp_path / "float.onnx")
    return ["--input_model", str(tmp_path / "float.onnx"), "--output_model", str(tmp_path / "packed.onnx")]


@pytest.mark.slow
def test_a_file_becomes_a_packed_file(paths):
    done = subprocess.run(
        [sys.executable, "-m", "vqonnx.compat.matmul_nbits_quantizer", *paths, "--accuracy_level", "4"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    model = onnx.load(paths[-1])
    found = attributes(model.graph.node[0])
    assert (found["bits"], found["block_size"], found["accuracy_level"]) == (4, 32, 4)
    assert "a_zero_points" not in arrays(model)


@pytest.mark.parametrize(
    ("options", "zero_points", "operators"),
    [
        (["--symmetric", "False"], True, {"MatMulNBits", "Relu"}),
        (["--symmetric"], False, {"MatMulNBits", "Relu"}),
        (["--quant_method", "hqq"], True, {"MatMulNBits", "Relu"}),
        (["--quant_method", "rtn", "--bits", "8"], False, {"MatMulNBits", "Relu"}),
        (["--quant_method", "k_quant", "--symmetric", "0"], True, {"MatMulNBits", "Relu"}),
        (["--quant_format", "QDQ"], False, {"DequantizeLinear", "MatMul", "Relu"}),
        (["--nodes_to_exclude", "MatMul_2", "--quant_axes", "MatMul:0"], False, {"MatMulNBits", "MatMul", "Relu"}),
    ],
)
def test_options_mean_what_they_do_there(paths, options, zero_points, operators):
    assert main([*paths, *options]) == 0
    model = onnx.load(paths[-1])
    assert set(ops(model)) == operators
    assert ("a_zero_points" in arrays(model)) == zero_points


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_samples_come_from_a_folder(paths, tmp_path, rng, method):
    folder = tmp_path / "samples"
    folder.mkdir()
    for index, feed in enumerate(correlated(rng, 9)):
        np.savez(folder / f"{index}.npz", **feed)
    assert main([*paths, "--quant_method", method, "--calibration", str(folder)]) == 0
    assert "MatMulNBits" in ops(onnx.load(paths[-1]))


def test_operators_and_included_nodes(tmp_path):
    onnx.save_model(lookup(), tmp_path / "float.onnx")
    for number, options in enumerate((["--op_types_to_quantize", "Gather"], ["--nodes_to_include", "Gather_0"])):
        output = tmp_path / f"{number}.onnx"
        arguments = ["--input_model", str(tmp_path / "float.onnx"), "--output_model", str(output), *options]
        assert main(arguments) == 0
        assert "GatherBlockQuantized" in ops(onnx.load(output))


def test_bad_input_is_told_in_one_line(paths, capsys):
    assert main([*paths, "--quant_method", "gptq"]) == 2
    assert "learns from samples" in capsys.readouterr().err
    assert main([*paths, "--nodes_to_exclude", "nothing"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    onnx.save_model(products(), paths[-1])
    assert main(paths) == 2
    assert "exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options", [["--symmetric", "maybe"], ["--quant_axes", "MatMul"], ["--quant_method", "nvidia_awq"]]
)
def test_words_that_are_none_are_refused(paths, options):
    with pytest.raises(SystemExit) as caught:
        main([*paths, *options])
    assert caught.value.code == 2
