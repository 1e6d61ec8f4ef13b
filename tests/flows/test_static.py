"""``quantize_static`` over every odd model: a file that loads, a report that is true, the caller's model as it was."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.matmuls import linear_bias
from models.ranges import outliers
from models.registry import load as load_cases
from tests.quantizers.flow import EAGER, normals, run, sqnr
from tests.sampling import one_in
from vqonnx import Report, quantize_static
from vqonnx.errors import (
    CacheError,
    ModelError,
    OptionError,
    OutputError,
    QuantRangeError,
    SampleError,
    VerificationError,
)
from vqonnx.report.figures import Level
from vqonnx.targets.cpu import CPU_X86_VNNI

CASES = {name: case for name, case in load_cases().items() if case.runnable}
FEEDS = normals(16, {"x": (2, 3, 8)})


def quantize(model: Any, path: Path, feeds: Any, **arguments: Any) -> Report:
    return quantize_static(model, path, feeds, **{"target": CPU_X86_VNNI, "progress": lambda *_: None, **arguments})


@pytest.mark.parametrize(
    ("case", "everything"),
    [
        *one_in(2, ((name, False) for name in CASES)),
        *one_in(4, ((name, True) for name in CASES if not name.startswith("opsets/") or name == "opsets/13")),
    ],
)
def test_every_odd_model_becomes_one_that_runs(case: str, everything: bool, tmp_path: Path) -> None:
    model, path = CASES[case].build(), tmp_path / "m.onnx"
    before = model.SerializeToString()
    target = {"target": EAGER, "extra_options": {"ForceQuantizeNoInputCheck": True}} if everything else {}
    report = quantize(model, path, list(CASES[case].feeds(16)), **target)
    assert model.SerializeToString() == before
    written = onnx.load(path)
    onnx.checker.check_model(written)
    assert [value.name for value in written.graph.output] == [value.name for value in model.graph.output]
    assert report.verified
    assert report.verification.samples == 2  # every 8th
    for output in report.verification.outputs:
        assert output.sqnr_db is None or output.sqnr_db >= 10 or any(output.name in w for w in report.warnings)
    assert report.quantized or any("nothing was quantized" in warning for warning in report.warnings)
    # The report's figures are those of the file, on samples that nobody has seen.
    (feed,) = CASES[case].feeds(1, seed=99)
    expected, given = run(model, feed, optimize=True), run(written, feed, optimize=True)
    for output in report.verification.outputs:
        if output.sqnr_db is not None and np.any(expected[output.name]):
            assert sqnr(expected[output.name], given[output.name]) > 10


@pytest.mark.parametrize("kind", ["path", "text", "proto", "ir"])
def test_the_model_may_be_a_path_or_an_object(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "float.onnx"
    onnx.save(linear_bias(), path)
    before = path.read_bytes()
    model = {"path": path, "text": str(path), "proto": linear_bias(), "ir": ir.load(path)}[kind]
    report = quantize(model, tmp_path / "int8.onnx", FEEDS)
    assert report.quantized["MatMul"] == 2
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["float.onnx", "int8.onnx"]


def test_input_and_output_may_be_the_same_path(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(linear_bias(), path)
    quantize(path, path, FEEDS)
    assert "DequantizeLinear" in {node.op_type for node in onnx.load(path).graph.node}
    assert [one.name for one in tmp_path.iterdir()] == ["m.onnx"]
    assert sqnr(run(linear_bias(), FEEDS[0])["y"], run(onnx.load(path), FEEDS[0])["y"]) > 30


def test_the_same_call_writes_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        quantize(linear_bias(), tmp_path / name, iter(FEEDS))
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]


class Reader:
    """As onnxruntime.quantization's CalibrationDataReader."""

    def __init__(self) -> None:
        self.left = iter(FEEDS)

    def get_next(self) -> Any:
        return next(self.left, None)


@pytest.mark.parametrize("reader", [FEEDS, Reader(), tuple(FEEDS), (feed for feed in FEEDS)])
def test_samples_may_come_in_any_wrapping(reader: Any, tmp_path: Path) -> None:
    report = quantize(linear_bias(), tmp_path / "m.onnx", reader)
    assert (report.samples, report.verification.samples) == (14, 2)


# ---- the report ----


def test_the_report_tells_what_became_of_each_node(tmp_path: Path) -> None:
    report = quantize(linear_bias(), tmp_path / "m.onnx", FEEDS, nodes_to_exclude=["MatMul_3"])
    assert dict(report.quantized) == {"MatMul": 1, "Add": 1, "Relu": 1}
    reasons = {skip.node: skip.reason for skip in report.skips}
    assert reasons["MatMul_3"] == "excluded by nodes_to_exclude"
    assert set(reasons) == {"MatMul_3", "Add_4", "Add_5"}
    assert report.target == "cpu-x86-vnni"
    assert {"load", "prepare", "plan", "observe", "solve", "emit", "verify"} <= set(report.seconds)
    sizes = report.verification.sizes
    assert sizes is not None
    assert sizes.quantized_bytes == (tmp_path / "m.onnx").stat().st_size


@pytest.mark.parametrize(("how", "level"), [(True, Level.COMPARED), (False, Level.LOADED), ("checker", Level.CHECKED)])
def test_the_report_says_how_far_it_was_verified(how: Any, level: Level, tmp_path: Path) -> None:
    report = quantize(linear_bias(), tmp_path / "m.onnx", FEEDS, verify=how)
    assert report.verification.level is level
    assert report.verified is (how is True)
    assert (not report.verified) == any("was not compared" in warning for warning in report.warnings)


def test_an_output_that_the_guard_may_not_save_is_warned_about(tmp_path: Path) -> None:
    report = quantize(outliers(), tmp_path / "m.onnx", normals(16, {"x": (8, 16)}), guard=False, bias_correction="off")
    assert any(warning.startswith("output 'y' has an SQNR of ") for warning in report.warnings)


# ---- errors ----


def test_a_missing_folder_is_found_before_anything_runs(tmp_path: Path) -> None:
    def never() -> Any:
        raise AssertionError("a sample was asked for")
        yield

    with pytest.raises(OutputError) as caught:
        quantize(linear_bias(), tmp_path / "missing" / "m.onnx", never())
    assert "missing" in str(caught.value)
    assert caught.value.path.endswith("m.onnx") or "missing" in caught.value.path


def test_a_missing_model_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.onnx"):
        quantize(tmp_path / "nowhere.onnx", tmp_path / "m.onnx", FEEDS)


def one(**arrays: Any) -> list[Any]:
    return [*FEEDS[:3], arrays]


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        ([], "no sample"),
        (one(y=FEEDS[0]["x"]), "'y'"),
        (one(), "'x'"),
        (one(x=FEEDS[0]["x"][0]), "'x'"),
        (one(x=np.full((2, 3, 8), np.nan, np.float32)), "NaN"),
        (one(x=np.full((2, 3, 8), np.inf, np.float32)), "infin"),
        (one(x=np.full((2, 3, 8), "a")), "'x'"),
    ],
    ids=["empty", "wrong name", "missing input", "rank", "nan", "inf", "text"],
)
def test_a_sample_that_does_not_fit_is_an_error_and_nothing_is_written(
    reader: Any, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"old")
    with pytest.raises(SampleError, match=message):
        quantize(linear_bias(), path, reader)
    assert path.read_bytes() == b"old"
    assert [one.name for one in tmp_path.iterdir()] == ["m.onnx"]


def test_a_weight_that_is_not_finite_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    model = linear_bias()
    for tensor in model.graph.initializer:
        if tensor.name == "b_b":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.full(8, np.nan, np.float32), "b_b"))
    with pytest.raises(QuantRangeError, match="constant 'b_b' cannot be quantized: the bias holds NaN or infinite"):
        quantize(model, tmp_path / "m.onnx", FEEDS)
    assert not list(tmp_path.iterdir())


def test_a_model_that_onnx_runtime_cannot_run_is_an_error(tmp_path: Path) -> None:
    case = load_cases()["domains/unknown"]
    with pytest.raises(VerificationError, match="Swizzle"):
        quantize(case.build(), tmp_path / "m.onnx", list(case.feeds(4)))
    assert not list(tmp_path.iterdir())


def test_a_cache_of_other_samples_is_an_error(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = quantize(linear_bias(), tmp_path / "m.onnx", FEEDS, calibration_cache_path=cache)
    again = quantize(linear_bias(), tmp_path / "m.onnx", FEEDS, calibration_cache_path=cache)
    assert again.verification.worst_db == first.verification.worst_db
    others = normals(16, {"x": (2, 3, 8)}, seed=1)
    with pytest.raises(CacheError) as caught:
        quantize(linear_bias(), tmp_path / "m.onnx", others, calibration_cache_path=cache)
    assert caught.value.path == str(cache)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nodes_to_exclude": ["MatMul_33"]}, "nodes_to_exclude: 'MatMul_33' matches no node"),
        ({"op_types_to_quantize": ["MatMull"]}, "op_types_to_quantize: 'MatMull' is neither"),
        ({"extra_options": {"Nothing": 1}}, "extra_options: 'Nothing' is no option"),
        ({"target": "cpu-x86"}, "target 'cpu-x86' is not known"),
        ({"activation_type": "QInt9"}, "'QInt9' is no QuantType"),
        ({"calibrate_method": "MinMaxx"}, "'MinMaxx' is no CalibrationMethod"),
        ({"quant_format": "QOperators"}, "'QOperators' is no QuantFormat"),
        ({"verify": "maybe"}, "verify: 'maybe' is none of"),
        ({"calibrate_method": "Distribution"}, "range method 'distribution' fits the codes of float types, not uint8"),
    ],
)
def test_an_argument_that_makes_no_sense_is_an_error(arguments: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError) as caught:
        quantize(linear_bias(), tmp_path / "m.onnx", FEEDS, **arguments)
    assert message in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_samples_are_needed(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="calibration_data_reader is missing: static quantization needs samples"):
        quantize(linear_bias(), tmp_path / "m.onnx", None)


# ---- types ----


@pytest.mark.parametrize(
    "arguments",
    [
        {"activation_type": "QUInt16"},
        {"activation_type": "QInt16", "weight_type": "QInt16"},
        {"activation_type": "QInt16", "extra_options": {"UseQDQContribOps": True}},
        {"activation_type": "QInt8"},
        {"weight_type": "QUInt8", "per_channel": False},
        {"weight_type": "QInt4", "activation_type": "QUInt16"},
        {"target": "directml"},
        {"target": "cpu-x86-avx2"},
        {"target": "cpu-arm"},
        *({"calibrate_method": name} for name in ("MinMax", "Entropy", "Percentile", "MSE")),
    ],
)
def test_types_targets_and_methods_run(arguments: Any, tmp_path: Path) -> None:
    report = quantize(linear_bias(), tmp_path / "m.onnx", FEEDS, **arguments)
    assert report.quantized["MatMul"] == 2
    (feed,) = normals(1, {"x": (2, 3, 8)}, seed=5)
    least = 14 if "QInt4" in arguments.values() else 22
    assert sqnr(run(linear_bias(), feed)["y"], run(onnx.load(tmp_path / "m.onnx"), feed)["y"]) > least
