"""The class of the QOperator form, and how ``quantize_static`` comes to it."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from models import digits
from models.matmuls import linear_bias
from tests.quantizers.flow import EAGER, normals, ops, quantizer, run, sqnr
from vqonnx import ONNXQuantizer, QDQQuantizer, QuantFormat, QuantizationMode, plan, quantize_static
from vqonnx.core.target import Form
from vqonnx.errors import OptionError
from vqonnx.report.figures import Outcome

FEEDS = normals(16, {"x": (2, 3, 8)})


def written(path: Path, **arguments: Any) -> list[str]:
    """The operators that ``quantize_static`` writes."""
    quantize_static(linear_bias(), path, FEEDS, progress=lambda *_: None, **{"target": EAGER, **arguments})
    return ops(onnx.load(path))


class MyDevice(ONNXQuantizer):
    target = EAGER


@pytest.mark.parametrize(
    ("arguments", "form"),
    [
        ({}, Form.QDQ),
        ({"quant_format": QuantFormat.QDQ}, Form.QDQ),
        ({"quant_format": QuantFormat.QOperator}, Form.QOPERATOR),
        ({"quant_format": "QOperator"}, Form.QOPERATOR),
        ({"quantizer": MyDevice}, Form.QOPERATOR),
        ({"quantizer": MyDevice, "quant_format": QuantFormat.QOperator}, Form.QOPERATOR),
        ({"quantizer": QDQQuantizer}, Form.QDQ),
    ],
)
def test_format_and_class_choose_the_form(arguments: dict[str, Any], form: Form, tmp_path: Path) -> None:
    found = written(tmp_path / "m.onnx", **arguments)
    assert ("MatMulIntegerToFloat" in found) is (form is Form.QOPERATOR)
    assert ("DequantizeLinear" in found) is (form is Form.QDQ)


def test_a_format_that_is_not_the_classs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"MyDevice writes the QOperator form, not QDQ\. Leave quant_format out, or"):
        written(tmp_path / "m.onnx", quantizer=MyDevice, quant_format=QuantFormat.QDQ)
    assert not list(tmp_path.iterdir())


def test_the_peers_own_member_is_taken(peer: Any, tmp_path: Path) -> None:
    assert "MatMulIntegerToFloat" in written(tmp_path / "m.onnx", quant_format=peer.QuantFormat.QOperator)


def test_it_may_be_used_alone() -> None:
    made = quantizer(linear_bias(), FEEDS, kind=ONNXQuantizer)
    assert (made.mode, made.static) == (QuantizationMode.QLinearOps, True)  # type: ignore[attr-defined]
    model = made.quantize_model()
    assert sqnr(run(linear_bias(), FEEDS[0])["y"], run(model, FEEDS[0])["y"]) > 30
    assert made.quantize_model().SerializeToString() == model.SerializeToString()


@pytest.mark.parametrize("arguments", [{"static": False}, {"mode": QuantizationMode.IntegerOps}])
def test_a_dynamic_mode_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="ONNXQuantizer writes static models only") as caught:
        ONNXQuantizer(linear_bias(), **arguments)
    assert caught.value.option == "mode"


def test_the_plan_of_the_form_can_be_asked_for() -> None:
    found = plan(linear_bias(), target=EAGER, quant_format=QuantFormat.QOperator)
    assert found.form is Form.QOPERATOR
    assert Counter(node.op_type for node in found.nodes.values()) == {"MatMul": 2, "Add": 2, "Relu": 1}


@pytest.mark.slow
def test_the_digits_are_read_as_well_as_in_qdq_form(tmp_path: Path) -> None:
    reports = {
        form: quantize_static(
            digits.MODEL,
            tmp_path / f"{form.name}.onnx",
            digits.calibration_samples(64),
            quant_format=form,
            target="cpu-x86-vnni",
            progress=lambda *_: None,
        )
        for form in QuantFormat
    }
    one, other = (report.verification for report in reports.values())
    assert [figure.sqnr_db for figure in one.outputs] == pytest.approx(
        [figure.sqnr_db for figure in other.outputs], abs=0.5
    )
    assert digits.evaluate(str(tmp_path / "QOperator.onnx")) > 99.7
    assert {kernel.outcome for kernel in one.kernels or ()} == {Outcome.INTEGER, Outcome.MERGED}
    assert [kernel.outcome for kernel in one.kernels or ()] == [kernel.outcome for kernel in other.kernels or ()]
    options = {option.name: option.value for option in reports[QuantFormat.QOperator].options}
    assert options["form"] == "QOperator"


@pytest.mark.parametrize("correction", ["on", "fast"])
def test_biases_are_corrected_and_the_guard_works_in_this_form(correction: Any, tmp_path: Path) -> None:
    report = quantize_static(
        digits.MODEL,
        tmp_path / "m.onnx",
        digits.calibration_samples(32),
        quant_format=QuantFormat.QOperator,
        bias_correction=correction,
        min_sqnr_db=35,  # so near to what there is that the search for sensitive nodes runs too
        progress=lambda *_: None,
    )
    assert report.bias_correction is not None
    assert report.bias_correction.corrected == 4
    assert {action.action for action in report.guard} <= {"kept float"}
    assert "rank" in report.seconds
    assert np.isfinite(report.verification.outputs[0].sqnr_db or np.nan)
