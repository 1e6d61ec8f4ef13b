"""``quantize_weight_only``: a file that runs and is near the float model, and a report that tells what it holds."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models import weights as cases
from models.build import build
from models.registry import load as load_cases
from tests.flows.packing import bfloat16_product, decoder_samples, pack
from tests.sampling import one_in
from tests.stages.weights.packing import ALL_OPERATORS, outputs_of
from vqonnx.errors import OptionError, QuantRangeError, UnsupportedModelError, VerificationError
from vqonnx.kernels.metrics import sqnr_db
from vqonnx.report.figures import Level
from vqonnx.report.json import from_json, to_json

CASES = {name: case for name, case in load_cases().items() if case.runnable}
# Format -> arguments, least SQNR in dB of the outputs beside the float model's.
FORMATS: dict[str, tuple[dict[str, Any], float]] = {
    "matmul_nbits": ({"bits": 8, "accuracy_level": 1}, 30),
    "qdq": ({"bits": 8}, 25),
    "nf4": ({}, 8),
    "channel_qdq": ({}, 25),
}
UNEVEN = "ranges/outliers"
"""Of its inputs one is ten thousand times larger, and so are the errors of the weights that it meets."""


# How a product is written in the last two forms shows in the models of weights.
PAIRS = [
    (name, form) for name in CASES for form in FORMATS if name.startswith("weights/") or form in ("matmul_nbits", "qdq")
]


@pytest.mark.parametrize(("name", "form"), one_in(3, PAIRS))
def test_every_odd_model_runs_packed_or_is_refused(name: str, form: str, tmp_path: Path) -> None:
    arguments, least_db = FORMATS[form]
    model, path = CASES[name].build(), tmp_path / "packed.onnx"
    before = model.SerializeToString()
    try:
        report = pack(model, path, format=form, op_types_to_quantize=ALL_OPERATORS, **arguments)
    except UnsupportedModelError as error:
        refusal = str(error)
        assert any(text in refusal for text in ("nothing to pack", "no weight of the model can be packed as asked"))
        assert not any(tmp_path.iterdir())
        return
    assert model.SerializeToString() == before
    assert [file.name for file in tmp_path.iterdir()] == ["packed.onnx"]
    assert report.verification.level is (Level.LAYERS if report.quantized else Level.LOADED)  # else quantized before
    assert sum(report.quantized.values()) == len({node for one in report.weights for node in one.nodes})
    for feed in CASES[name].feeds(2, seed=5):
        expected, given = outputs_of(model, feed), outputs_of(onnx.load(path), feed)
        assert given.keys() == expected.keys()
        for output, array in expected.items():
            if array.size and name != UNEVEN:
                assert sqnr_db(array, given[output]) > least_db, output


@pytest.mark.parametrize(
    "arguments",
    [
        {"algorithm": "gptq", "calibration": "samples"},
        {"algorithm": "awq", "calibration": "samples"},
        {"algorithm": "auto", "calibration": "samples"},
        {"algorithm": "scale_search", "symmetric": True},
        {"algorithm": "hqq", "block_size": 16},
        {"algorithm": "clip_search", "format": "qdq", "bits": 8, "op_types_to_quantize": ["MatMul"]},
        {"algorithm": "rtn", "format": "fp4", "op_types_to_quantize": ["MatMul"]},
    ],
    ids=lambda arguments: arguments["algorithm"],
)
def test_two_runs_give_the_same_bytes_on_any_number_of_processors(
    arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"op_types_to_quantize": ["MatMul", "Gather"]} | arguments
    if "calibration" in arguments:
        arguments["calibration"] = decoder_samples()
    written = []
    for processors in (1, 3, 3):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, count=processors: set(range(count)), raising=False)
        pack(cases.decoder_with_cache(), tmp_path / "packed.onnx", **arguments)
        written.append((tmp_path / "packed.onnx").read_bytes())
    assert written[0] == written[1] == written[2]


def test_the_report_tells_what_became_of_each_weight(tmp_path: Path) -> None:
    report = pack(
        cases.decoder_with_cache(),
        tmp_path / "m.onnx",
        algorithm="gptq",
        calibration=decoder_samples(),
        last_matmul=False,
    )
    by_node = {one.nodes: one for one in report.weights}
    assert set(by_node) == {(f"MatMul_{number}",) for number in (1, 2, 6, 8)}
    assert all(one.data and one.asked == "gptq" and one.form == "matmul_nbits" for one in report.weights)
    assert all((one.sqnr_db or 0) >= (one.rtn_db or 0) > 10 and (one.node_db or 0) > 30 for one in report.weights)
    assert report.quantized == {"MatMul": 4}
    assert {skip.node: skip.reason for skip in report.skips}[
        "MatMul_10"
    ] == "nearest to the outputs (last_matmul=False)"
    assert report.samples == 14
    assert report.verification.samples == 2
    assert report.verified
    assert set(report.seconds) == {"load", "solve", "emit", "verify"}
    assert from_json(to_json(report)) == report


@pytest.mark.parametrize(("verify", "level"), [(False, Level.LOADED), ("checker", Level.CHECKED)])
def test_less_is_verified_where_that_is_asked(verify: Any, level: Level, tmp_path: Path) -> None:
    report = pack(cases.decoder_with_cache(), tmp_path / "m.onnx", verify=verify)
    assert report.verification.level is level
    assert any(level.value in warning for warning in report.warnings)
    assert all(one.node_db is None for one in report.weights)


def test_models_in_memory_and_readers_that_end_are_taken(tmp_path: Path) -> None:
    proto = cases.decoder_with_cache()
    paths = [tmp_path / f"{number}.onnx" for number in range(3)]
    onnx.save(proto, tmp_path / "float.onnx")
    for source, path in zip((proto, ir.from_proto(proto), tmp_path / "float.onnx"), paths, strict=True):
        pack(source, path, algorithm="gptq", calibration=iter(decoder_samples()))
    first, *others = (path.read_bytes() for path in paths)
    assert others == [first, first]


def test_a_table_and_a_head_that_are_one_tensor_stay_one(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    arguments = {"op_types_to_quantize": ["MatMul", "Gemm", "Gather"], "layers": {"op:Gather": {"bits": 8}}}
    report = pack(cases.tied_copies(), path, **arguments)
    shared = next(one for one in report.weights if "Gather_0" in one.nodes)
    assert "MatMul_7" in shared.nodes
    assert shared.bits == 8
    model = onnx.load(path)
    readers = {node.name: node.input for node in model.graph.node}
    assert readers["Gather_0"][2:4] == readers["MatMul_7"][2:4]
    tables = [tensor.name for tensor in model.graph.initializer if tensor.dims[:1] == [24] and len(tensor.dims) > 1]
    assert sorted(tables) == ["table_Q8", "table_scales", "table_zero_points"]


def test_layers_may_differ_and_be_left_out(tmp_path: Path) -> None:
    report = pack(
        cases.decoder_with_cache(),
        tmp_path / "m.onnx",
        layers={"MatMul_1": {"bits": 8, "block_size": 16}, "re:MatMul_[26]": {"symmetric": True}},
        nodes_to_exclude=["MatMul_8"],
    )
    found = {one.nodes[0]: (one.bits, one.block_size, one.symmetric) for one in report.weights}
    assert found["MatMul_1"] == (8, 16, False)
    assert found["MatMul_2"] == found["MatMul_6"] == (4, 32, True)
    assert found["MatMul_10"] == (4, 32, False)
    assert "MatMul_8" not in found


def test_quantized_weights_are_packed_anew_only_when_asked(tmp_path: Path) -> None:
    model = cases.quantized("channels")
    kept = pack(model, tmp_path / "m.onnx")
    assert kept.quantized == {}
    assert "requantize=True takes it as a float weight" in kept.skips[0].reason
    report = pack(model, tmp_path / "m.onnx", requantize=True, bits=8)
    assert report.quantized == {"MatMul": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"algorithm": "gptp"}, r"algorithm 'gptp'.*did you mean 'gptq'"),
        ({"algorithm": "gptq"}, "'gptq' learns from samples, and there are none"),
        ({"algorithm": "gptq", "algorithm_options": {"dampin": 0.1}}, "did you mean 'damping'"),
        ({"algorithm": "awq", "symmetric": True, "format": "nf4"}, "code book of 4 bits without zero points"),
        ({"bits": 3}, r"bits must be one of \(2, 4, 8\), got 3"),
        ({"block_size": 48}, "block_size must be a power of two from 16 to 256"),
        ({"block_size": -1}, "has no scale per channel"),
        ({"format": "nf4", "bits": 8}, "code book of 4 bits"),
        ({"format": "gguf"}, "format: 'gguf' is none of 'matmul_nbits'"),
        ({"format": "channel_qdq", "bits": 4}, "means 8 bits"),
        ({"accuracy_level": 5}, r"accuracy_level must lie in 0..4, got 5"),
        ({"inputs": "both"}, "inputs: 'both' is none of"),
        ({"verify": "yes"}, "verify: 'yes' is none of"),
        ({"op_types_to_quantize": ["Matmul"]}, "did you mean 'MatMul'"),
        ({"nodes_to_exclude": ["MatMul_99"]}, "'MatMul_99' matches no node"),
        ({"layers": {"MatMul_1": {"bit": 8}}}, "did you mean 'bits'"),
        ({"layers": {"MatMul_1": {"bits": 5}}}, "bits must be one of"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=message):
        pack(cases.decoder_with_cache(), tmp_path / "m.onnx", **arguments)
    assert not any(tmp_path.iterdir())


def test_a_model_without_products_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="no constant weight that a MatMul, Gemm, Conv or Gather reads"):
        pack(build("none (float[N, 3] x) => (float[N, 3] y) { y = Relu (x) }"), tmp_path / "m.onnx")


@pytest.mark.parametrize("algorithm", ["rtn", "scale_search", "gptq"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(value: float, algorithm: str, tmp_path: Path) -> None:
    model = cases.decoder_with_cache()
    broken = next(tensor for tensor in model.graph.initializer if tensor.name == "o")
    array = onnx.numpy_helper.to_array(broken).copy()
    array[3, 4] = value
    broken.CopyFrom(onnx.numpy_helper.from_array(array, "o"))
    # A walk sees what the broken weight does to the layers behind it too, so the last layer stays float.
    samples = decoder_samples() if algorithm == "gptq" else None
    with pytest.raises(QuantRangeError, match=r"weight 'o' of node 'MatMul_8': .* NaN or infinite") as caught:
        pack(model, tmp_path / "m.onnx", algorithm=algorithm, calibration=samples, last_matmul=False)
    assert caught.value.tensor == "o"
    assert not (tmp_path / "m.onnx").exists()


def test_what_no_provider_here_can_run_is_written_only_when_that_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(UnsupportedModelError, match=r"'w' is bfloat16.* Pass verify='checker'"):
        pack(bfloat16_product(), path)
    assert not any(tmp_path.iterdir())
    report = pack(bfloat16_product(), path, verify="checker")
    assert report.verification.level is Level.CHECKED
    onnx.checker.check_model(path)


def test_a_layer_that_computes_something_else_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    monkeypatch.setattr("vqonnx.stages.weights.verify.LEAST_DB", 200.0)
    with pytest.raises(VerificationError, match="computes something else than its packed weight says"):
        pack(cases.decoder_with_cache(), path)
    assert path.read_bytes() == b"old"
