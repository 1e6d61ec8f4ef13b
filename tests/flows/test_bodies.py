"""Static quantization inside bodies of If, Loop and Scan: against ORT, ONNX's reference, and what is written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models.build import Weights, build
from models.registry import load as load_cases
from tests.quantizers.flow import EAGER, constants, run, run_reference, sqnr
from vqonnx import QDQQuantizer, quantize_static
from vqonnx.progress import silent
from vqonnx.report.figures import Outcome
from vqonnx.report.model import Report

CASES = load_cases()
WITH_BODIES = ["if", "loop", "nested", "scan", "growing", "shared"]
PLAIN = {"guard": False, "equalize": False, "bias_correction": "off", "calibrate_method": "MinMax"}


def quantized(model: onnx.ModelProto, feeds: Any, path: Path, **options: Any) -> tuple[onnx.ModelProto, Report]:
    report = quantize_static(model, path / "q.onnx", feeds, progress=silent, **{"target": EAGER, **PLAIN, **options})
    found = onnx.load(path / "q.onnx")
    onnx.checker.check_model(found, full_check=True)
    return found, report


def bodies(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    found = [a.g for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.GRAPH]
    return [inner for body in found for inner in (body, *bodies(body))]


@pytest.mark.parametrize(("form", "everything"), [("QDQ", False), ("QDQ", True), ("QOperator", False)])
@pytest.mark.parametrize("name", WITH_BODIES)
def test_bodies_run_in_integers_and_near_float(name: str, form: str, everything: bool, tmp_path: Path) -> None:
    case = CASES[f"control/{name}"]
    model, feeds = case.build(), list(case.feeds(16))
    before = model.SerializeToString()
    options = {"ForceQuantizeNoInputCheck": everything}
    result, report = quantized(model, feeds, tmp_path, quant_format=form, extra_options=options)
    assert model.SerializeToString() == before
    assert not [kernel for kernel in report.verification.kernels if kernel.outcome is Outcome.FLOAT and not everything]
    assert any("/" in kernel.node and kernel.outcome is Outcome.INTEGER for kernel in report.verification.kernels)
    for feed in feeds[:2]:
        wanted, plain, fast = run(model, feed), run(result, feed), run(result, feed, optimize=True)
        for output in wanted:
            assert sqnr(wanted[output], plain[output]) > 25
            assert sqnr(plain[output], fast[output]) > 30
        for output, reference in run_reference(result, feed).items() if form == "QDQ" else ():
            stacked = np.reshape(reference, plain[output].shape)  # it joins what the trips of a Loop give
            assert sqnr(plain[output], stacked) > 30


def test_codes_are_stored_once_and_each_graph_dequantizes_them(tmp_path: Path) -> None:
    case = CASES["control/shared"]
    result, _ = quantized(case.build(), list(case.feeds(8)), tmp_path)
    assert "c_w" not in constants(result)
    graphs = [result.graph, *bodies(result.graph)]
    assert [one.name for graph in graphs for one in graph.initializer if one.dims[:2] == [8, 8]] == ["c_w_quantized"]
    made = [[name for node in graph.node for name in node.output] for graph in graphs]
    for graph, own in zip(graphs, made, strict=True):
        convs = [node for node in graph.node if node.op_type == "Conv"]
        assert all(name in own for node in convs for name in node.input)
        readers = [
            node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] == "c_w_quantized"
        ]
        assert len(readers) == bool(convs)


def test_a_loops_range_holds_all_its_trips(tmp_path: Path) -> None:
    """What doubles in each trip is eight times as large in the last."""
    weights = Weights(0)
    weights.arrays |= {"w": (2 * np.eye(4)).astype(np.float32), "go": np.array(True)}
    model = build("""doubling (float[N, 4] x, int64 n) => (float[N, 4] y) {
        y = Loop (n, go, x) <body = step (int64 i, bool c, float[N, 4] h) => (bool d, float[N, 4] k) {
            d = Identity (c)
            k = MatMul (h, w)
        }>
    }""", weights.arrays)  # fmt: skip
    feeds = [{"x": np.array([[-1, 0.5, 0.25, 1]], np.float32), "n": np.array(n)} for n in (1, 4, 0, 2)]
    result, _ = quantized(model, feeds, tmp_path)
    assert constants(result)["h_scale"] == pytest.approx(16 / 255)
    assert constants(result)["h_zero_point"] in (127, 128)


def without_range(flag: bool, tmp_path: Path, **options: Any) -> Mapping[str, str]:
    case = CASES["control/if"]
    feeds = [{**feed, "flag": np.array(flag)} for feed in case.feeds(16)]
    result, report = quantized(case.build(), feeds, tmp_path, **options)
    for feed in case.feeds(4, seed=1):
        for name, wanted in run(case.build(), feed).items():
            assert sqnr(wanted, run(result, feed)[name]) > 15
    return {skip.node: skip.reason for skip in report.skips}


@pytest.mark.parametrize("method", ["MinMax", "Entropy", None])
def test_a_branch_that_no_sample_took_stays_float(method: str | None, tmp_path: Path) -> None:
    reasons = without_range(True, tmp_path, calibrate_method=method)
    assert reasons["If_2/else_branch/MatMul_0"].startswith("no calibration sample ran the body that has 'm'")
    assert "If_2/then_branch/MatMul_0" not in reasons
    assert reasons["If_2"] == "its bodies are planned node by node"


def test_a_product_with_a_free_float_output_needs_no_range_of_it(tmp_path: Path) -> None:
    """The other branch only reads what the main graph computed, which every sample did."""
    assert not any("no calibration sample" in reason for reason in without_range(False, tmp_path).values())


def test_a_loop_that_never_runs_stays_float(tmp_path: Path) -> None:
    case = CASES["control/growing"]
    feeds = [{**feed, "trips": np.array(0)} for feed in case.feeds(8)]
    _, report = quantized(case.build(), feeds, tmp_path)
    assert not report.quantized
    assert any("nothing tells its range" in skip.reason for skip in report.skips)


def test_nodes_of_bodies_are_chosen_by_name_and_bodies_left_alone(tmp_path: Path) -> None:
    case = CASES["control/if"]
    _, report = quantized(case.build(), list(case.feeds(8)), tmp_path, nodes_to_exclude=["*/else_branch/MatMul_0"])
    assert report.quantized["MatMul"] == 2
    options = {"EnableSubgraph": False}
    _, report = quantized(case.build(), list(case.feeds(8)), tmp_path, extra_options=options)
    assert report.quantized["MatMul"] == 1


def test_an_override_changes_bodies_too(tmp_path: Path) -> None:
    class WithoutBiases(QDQQuantizer):
        target = EAGER

        def quantize_bias_static(self, bias_name: str, input_name: str, weight_name: str, beta: float = 1.0) -> str:
            name = super().quantize_bias_static(bias_name, input_name, weight_name, beta)
            self.initializers[name] = np.zeros_like(self.initializers[name])
            return name

    case = CASES["control/nested"]
    result, _ = quantized(case.build(), list(case.feeds(8)), tmp_path, quantizer=WithoutBiases, target=None)
    assert not constants(result)["c_b_quantized"].any()
    assert constants(result)["c_b_quantized"].dtype == np.int32


def test_the_guard_sees_bodies(tmp_path: Path) -> None:
    """A product in a Loop whose one huge input channel leaves no codes for the others."""
    weights = Weights(1)
    weights.normal("w", 8, 8)
    weights.arrays |= {"go": np.array(True), "n": np.array(2), "factor": np.array([1e6, *[1] * 7], np.float32)}
    weights.arrays["w"][0] = 0
    model = build("""outlier (float[N, 8] x) => (float[N, 8] y) {
        y = Loop (n, go, x) <body = step (int64 i, bool c, float[N, 8] h) => (bool d, float[N, 8] k) {
            d = Identity (c)
            s = Mul (h, factor)
            k = MatMul (s, w)
        }>
    }""", weights.arrays)  # fmt: skip
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(size=(4, 8)).astype(np.float32)} for _ in range(16)]
    _, report = quantized(model, feeds, tmp_path, guard=True, target=EAGER)
    assert not report.quantized
    assert report.verification.worst_db > 100


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    case = CASES["control/shared"]
    found = [quantized(case.build(), list(case.feeds(8)), tmp_path)[0].SerializeToString() for _ in range(2)]
    assert found[0] == found[1]


def test_bodies_of_other_operators_stay_float(tmp_path: Path) -> None:
    weights = Weights(2)
    weights.normal("w", 8, 8)
    model = build("""mapped (float[N, 8] x) => (float[N, 8] y) {
        s = SequenceConstruct (x, x)
        t = SequenceMap (s) <body = each (float[N, 8] e) => (float[N, 8] f) { f = MatMul (e, w) }>
        zero = Constant <value = int64 {0}> ()
        first = SequenceAt (t, zero)
        y = MatMul (first, w)
    }""", weights.arrays)  # fmt: skip
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.normal(size=(4, 8)).astype(np.float32)} for _ in range(8)]
    result, report = quantized(model, feeds, tmp_path)
    assert report.quantized == {"MatMul": 1}
    assert any("in a body of SequenceMap" in skip.reason for skip in report.skips)
    assert sqnr(run(model, feeds[0])["y"], run(result, feeds[0])["y"]) > 25
