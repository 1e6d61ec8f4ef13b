"""The guard sees in the histograms what quantization would erase, and the whole flow acts on it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models.matmuls import linear_bias
from models.ranges import detection_head, outliers
from models.registry import load as load_cases
from tests.quantizers.flow import EAGER, normals, prepared, quantizer, run, sqnr
from vqonnx import Report, quantize_static
from vqonnx.calibration.statistics import Statistic
from vqonnx.calibration.statistics.histogram import Histogram
from vqonnx.core.plan import Plan
from vqonnx.core.solution import Solutions
from vqonnx.core.spec import RangeMethod
from vqonnx.quantizers.options import QuantizerOptions
from vqonnx.stages.guard import LEAST_LOCAL_DB, collapsing_nodes
from vqonnx.stages.observe import ObserveOptions, observe
from vqonnx.targets.cpu import CPU_X86_VNNI

EVERYTHING = {"ForceQuantizeNoInputCheck": True}
HEAD_FEEDS = normals(16, {"x": (2, 3, 8, 8)})


def histograms(model: onnx.ModelProto, feeds: Any, **arguments: Any) -> tuple[Plan, Solutions, dict[str, Statistic]]:
    """Plan, numbers by the smallest and largest values, and the histogram of each tensor."""
    made = quantizer(model, feeds, **arguments)
    plan = made.current_plan()
    wanted = {form.tensor: RangeMethod.MSE for form in plan.activations()}
    float_model = prepared(model, QuantizerOptions.of(target=EAGER))
    return plan, made.solve(), dict(observe(float_model, wanted, [dict(f) for f in feeds], ObserveOptions()).tensors)


def test_a_concat_that_erases_one_of_its_parts_is_found() -> None:
    plan, solutions, seen = histograms(detection_head(), HEAD_FEEDS, target=CPU_X86_VNNI, extra_options=EVERYTHING)
    found = collapsing_nodes(plan, solutions, seen)
    assert set(found) == {"Concat_9"}
    assert found["Concat_9"].startswith("one scale for all inputs would leave ")
    assert found["Concat_9"].endswith(" dB of 'scores_f'")
    left = float(found["Concat_9"].split("leave ")[1].split(" dB")[0])
    assert left < LEAST_LOCAL_DB


def test_a_shared_scale_that_erases_a_tensor_is_found_at_each_of_its_nodes() -> None:
    plan, solutions, seen = histograms(detection_head(), HEAD_FEEDS, extra_options=EVERYTHING)
    found = collapsing_nodes(plan, solutions, seen)
    assert "Concat_9" in found
    assert any("would leave" in reason and "'scores" in reason for reason in found.values())


def test_an_activation_with_outliers_is_found() -> None:
    made = quantizer(linear_bias(), normals(4, {"x": (2, 3, 8)}))
    made.tensors_range["r"] = (0.0, 1e4)
    values = np.abs(np.random.default_rng(0).normal(size=100000)).astype(np.float32)
    values[:50] = 1e4
    found = collapsing_nodes(made.current_plan(), made.solve(), {"r": Histogram(bins=1 << 20).of(values)})
    assert set(found) == {"MatMul_3"}  # it reads r; the clip that makes r goes with the node before it
    assert found["MatMul_3"].startswith("quantizing 'r' would leave ")
    assert found["MatMul_3"].endswith(" dB of it: it has outliers")


@pytest.mark.parametrize("case", ["networks/residual_cnn", "networks/transformer", "chains/conv", "matmuls/bias"])
def test_an_ordinary_network_has_nothing_to_guard(case: str) -> None:
    model = load_cases()[case]
    plan, solutions, seen = histograms(
        model.build(), list(model.feeds(8)), target=CPU_X86_VNNI, extra_options=EVERYTHING
    )
    assert plan.nodes
    assert collapsing_nodes(plan, solutions, seen) == {}


def test_without_histograms_nothing_is_known() -> None:
    plan, solutions, _ = histograms(outliers(), normals(4, {"x": (8, 16)}))
    assert collapsing_nodes(plan, solutions, {}) == {}


# ---- the whole flow ----


def report_of(model: onnx.ModelProto, path: Path, feeds: Any, **arguments: Any) -> Report:
    return quantize_static(
        model,
        path,
        feeds,
        target=CPU_X86_VNNI,
        bias_correction="off",
        calibrate_method="MinMax",  # type: ignore[arg-type]
        progress=lambda *_: None,
        **arguments,
    )


def score_db(path: Path) -> float:
    """SQNR of the scores alone: the box coordinates are a thousand times larger."""
    (feed,) = normals(1, {"x": (2, 3, 8, 8)}, seed=7)
    expected, given = run(detection_head(), feed)["y"], run(onnx.load(path), feed)["y"]
    return sqnr(expected[:, 4:], given[:, 4:])


def test_boxes_do_not_erase_scores(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    report_of(detection_head(), path, HEAD_FEEDS, guard=False, extra_options=EVERYTHING)
    assert score_db(path) < 10
    guarded = quantize_static(
        detection_head(),
        path,
        HEAD_FEEDS,
        target=CPU_X86_VNNI,
        extra_options=EVERYTHING,
        progress=lambda *_: None,
    )
    assert score_db(path) >= 10
    assert "Concat_9" in {action.subject for action in guarded.guard}
    assert "Concat_9" in {skip.node for skip in guarded.skips}
    assert all(action.action == "kept float" and action.reason for action in guarded.guard)
    assert guarded.quantized["Conv"] == 3  # and nothing more went back than had to


def test_rules_that_erase_a_tensor_leave_its_nodes_float(tmp_path: Path) -> None:
    """A Concat wants one scale, and the HardSigmoid before it the finest one: boxes beyond 1 would be lost."""
    arguments: dict[str, Any] = {"preset": "xint8", "progress": lambda *_: None}
    blind = quantize_static(detection_head(), tmp_path / "m.onnx", HEAD_FEEDS, guard=False, **arguments)
    assert blind.verification.worst_db is not None
    assert blind.verification.worst_db < 1
    report = quantize_static(detection_head(), tmp_path / "m.onnx", HEAD_FEEDS, **arguments)
    assert report.verification.worst_db is not None
    assert report.verification.worst_db > 20
    assert not report.violations
    assert "Concat_9" in {skip.node for skip in report.skips}
    assert any("the device's rules" in action.reason for action in report.guard)


def test_outliers_do_not_erase_the_rest(tmp_path: Path) -> None:
    feeds = normals(16, {"x": (8, 16)})
    plain = report_of(outliers(), tmp_path / "m.onnx", feeds, guard=False)
    assert plain.verification.worst_db is not None
    assert plain.verification.worst_db < 10
    assert not plain.guard
    assert any("SQNR" in warning for warning in plain.warnings)
    guarded = report_of(outliers(), tmp_path / "m.onnx", feeds)
    assert guarded.verification.worst_db is not None
    assert guarded.verification.worst_db >= 10
    assert guarded.guard
    skipped = {skip.node: skip.reason for skip in guarded.skips}
    for action in guarded.guard:
        assert skipped[action.subject] == action.reason
    (feed,) = normals(1, {"x": (64, 16)}, seed=5)
    given = run(onnx.load(tmp_path / "m.onnx"), feed)["y"]
    assert sqnr(run(outliers(), feed)["y"], given) >= 10
    assert np.isfinite(given).all()
