"""``quantize_dynamic`` on whole models: odd ones, large ones, names, options, and what the report says."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest

from models import digits
from models.build import build
from models.registry import load as load_cases
from tests.emitters import dynamic_models as made
from tests.sampling import one_in
from vqonnx import quantize_dynamic
from vqonnx.errors import OptionError, OutputError, QuantRangeError, SampleError
from vqonnx.graph.io import load
from vqonnx.progress import silent
from vqonnx.report.figures import Level
from vqonnx.report.model import Report
from vqonnx.runtime.session import open_session

CASES = {name: case for name, case in load_cases().items() if case.runnable}
COLLAPSE = {"ranges/outliers": "one activation is a thousand times the others, which one scale cannot hold"}
LEAST_DB = 25.0


def run(model: onnx.ModelProto, feed):
    return list(open_session(load(model)).run(None, dict(feed)))


def quantize(model: object, path: Path, **options) -> Report:
    return quantize_dynamic(model, path, progress=silent, **options)


def told(report: Report) -> dict[str, str]:
    return {skip.node: skip.reason for skip in report.skips}


CONVOLUTIONS = [name for name, case in CASES.items() if any(n.op_type == "Conv" for n in case.build().graph.node)]


@pytest.mark.parametrize(
    ("name", "op_types"),
    [*one_in(2, ((name, None) for name in CASES)), *one_in(4, ((name, ["Conv"]) for name in CONVOLUTIONS))],
)
def test_every_odd_model_stays_what_it_is(name, op_types, tmp_path):
    case, path = CASES[name], tmp_path / "q.onnx"
    model = case.build()
    before = model.SerializeToString()
    quantize(model, path, op_types_to_quantize=op_types)
    assert model.SerializeToString() == before
    for feed in case.feeds(2):
        for wanted, actual in zip(run(model, feed), run(onnx.load(path), feed), strict=True):
            if not isinstance(wanted, np.ndarray):
                assert actual == wanted
                continue
            assert (actual.shape, actual.dtype) == (wanted.shape, wanted.dtype)
            if np.issubdtype(wanted.dtype, np.floating) and wanted.size and name not in COLLAPSE:
                finite = np.isfinite(wanted)
                noise = np.sum((wanted.astype(float) - actual)[finite] ** 2)
                assert noise <= 10 ** (-LEAST_DB / 10) * np.sum(wanted.astype(float)[finite] ** 2)


def test_nodes_and_outputs_keep_their_names(tmp_path):
    model = CASES["networks/transformer"].build()
    report = quantize(model, tmp_path / "q.onnx")
    result = onnx.load(tmp_path / "q.onnx")
    after = {node.name for node in result.graph.node}
    assert {name for figures in report.weights for name in figures.nodes} <= after
    assert [one.name for one in result.graph.output] == [one.name for one in model.graph.output]


def test_equal_input_gives_equal_bytes(tmp_path):
    paths = [tmp_path / "a" / "q.onnx", tmp_path / "b" / "q.onnx"]
    for path in paths:
        path.parent.mkdir()
        quantize(CASES["networks/transformer"].build(), path)
    first, second = (hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    assert first == second


@pytest.mark.parametrize("external", [True, False])
def test_input_and_output_may_be_the_same_file(external, tmp_path):
    path = tmp_path / "m.onnx"
    model = made.product(k=64, n=64)
    onnx.save(model, path, save_as_external_data=external, location="m.data", size_threshold=0)
    model = made.product(k=64, n=64)
    quantize(path, path)
    feed = {"x": np.ones((2, 64), np.float32)}
    np.testing.assert_allclose(run(model, feed)[0], open_session(path).run(None, feed)[0], atol=0.05)


def test_quantizing_twice_changes_nothing(tmp_path):
    quantize(made.product(), tmp_path / "a.onnx")
    report = quantize(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert not report.quantized
    assert onnx.load(tmp_path / "a.onnx").graph.node == onnx.load(tmp_path / "b.onnx").graph.node


def test_bodies_are_quantized_unless_they_are_not_to_be(tmp_path):
    text = """g (bool c, float[m, 24] x) => (float[m, 12] y) {
        y = If (c) <then_branch = a () => (float[m, 12] t) { t = MatMul(x, w) },
                    else_branch = b () => (float[m, 12] e) { p = MatMul(x, w) e = Neg(p) }>
    }"""
    model = build(text, made.weights(w=(24, 12)))
    report = quantize(model, tmp_path / "q.onnx")
    assert report.quantized == {"MatMul": 2}
    assert len([one for one in onnx.load(tmp_path / "q.onnx").graph.initializer if one.name == "w_quantized"]) == 1
    for condition in (True, False):
        feed = {"c": np.array(condition), "x": np.random.default_rng(0).standard_normal((3, 24)).astype(np.float32)}
        np.testing.assert_allclose(run(model, feed)[0], run(onnx.load(tmp_path / "q.onnx"), feed)[0], atol=0.1)
    report = quantize(model, tmp_path / "q.onnx", extra_options={"EnableSubgraph": False})
    assert not report.quantized
    assert set(told(report).values()) == {"in a body of If, Loop or Scan (EnableSubgraph is False)"}


def test_functions_are_written_out(tmp_path):
    model = build(
        "g (float[m, 8] x) => (float[m, 8] y) { y = local.layer(x, w) }",
        made.weights(w=(8, 8)),
        domains={"local": 1},
        functions='<domain: "local", opset_import: ["": 17]> layer (x, w) => (y) { y = MatMul(x, w) }',
    )
    assert quantize(model, tmp_path / "q.onnx").quantized == {"MatMul": 1}


def test_samples_tell_how_good_and_fast_the_result_is(tmp_path):
    report = quantize(digits.MODEL, tmp_path / "q.onnx", calibration=digits.calibration_samples(32))
    assert report.verified
    assert report.verification.samples == 4
    assert report.verification.worst_db > 40
    assert report.verification.latency is not None
    assert report.verification.sizes.ratio < 0.4
    assert all(figures.node_db > 30 and figures.sqnr_db > 30 for figures in report.weights)
    assert digits.evaluate(tmp_path / "q.onnx") > digits.evaluate(digits.MODEL) - 0.1


def test_without_samples_each_node_is_run(tmp_path):
    report = quantize(digits.MODEL, tmp_path / "q.onnx")
    assert report.verification.level is Level.LAYERS
    assert not report.warnings


def test_a_collapse_is_seen_on_samples(tmp_path):
    case = CASES["ranges/outliers"]
    report = quantize(case.build(), tmp_path / "q.onnx", calibration=list(case.feeds(16)))
    assert any("below 10 dB" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes_to_exclude": ["MatMul_9"]}, "did you mean 'MatMul_0'"),
        ({"nodes_to_quantize": ["nothing*"]}, "matches no node"),
        ({"op_types_to_quantize": ["MatMull"]}, "did you mean 'MatMul'"),
        ({"op_types_to_quantize": ["Add"]}, "has no dynamic form"),
        ({"extra_options": {"MatMulConstOnly": True}}, "did you mean 'MatMulConstBOnly'"),
        ({"extra_options": {"MatMulConstBOnly": False}}, "must stay True"),
        ({"extra_options": {"ActivationSymmetric": True}}, "DynamicQuantizeLinear"),
        ({"extra_options": {"WeightSymmetric": "yes"}}, "takes True or False"),
        ({"extra_options": {"Target": 3}}, "takes a target"),
        ({"weight_type": "QInt4"}, "quantize_weight_only"),
        ({"weight_type": "QInt16"}, "int8 and uint8"),
        ({"target": "cpu-x87"}, "not known"),
        ({"verify": "maybe"}, "none of"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message, tmp_path):
    with pytest.raises(OptionError, match=message):
        quantize(made.product(), tmp_path / "q.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_options_with_no_effect_are_taken(tmp_path):
    options = {"MatMulConstBOnly": True, "ForceQuantizeNoInputCheck": True, "ActivationSymmetric": False}
    assert quantize(made.product(), tmp_path / "q.onnx", extra_options=options).quantized == {"MatMul": 1}


def test_asymmetric_weights_have_a_zero_point_a_channel(tmp_path):
    quantize(made.product(), tmp_path / "q.onnx", extra_options={"WeightSymmetric": False})
    stored = {one.name: onnx.numpy_helper.to_array(one) for one in onnx.load(tmp_path / "q.onnx").graph.initializer}
    assert stored["w_zero_point"].shape == (12,)
    assert stored["w_zero_point"].any()


def test_a_weight_that_is_not_finite_is_named(tmp_path):
    model = build("g (float[m, 2] x) => (float[m, 2] y) { y = MatMul(x, w) }", {"w": np.full((2, 2), np.nan, "f4")})
    with pytest.raises(QuantRangeError, match=r"weight 'w' of MatMul_0: .*NaN"):
        quantize(model, tmp_path / "q.onnx")


def test_a_missing_folder_is_found_before_work_begins(tmp_path):
    with pytest.raises(OutputError):
        quantize(made.product(), tmp_path / "no" / "q.onnx")


def test_a_sample_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(SampleError):
        quantize(made.product(), tmp_path / "q.onnx", calibration=[{"z": np.zeros((1, 24), np.float32)}])
    assert not list(tmp_path.iterdir())


def test_excluded_nodes_stay_float(tmp_path):
    report = quantize(made.product(), tmp_path / "q.onnx", nodes_to_exclude=["re:Mat.*"])
    assert told(report) == {"MatMul_0": "excluded by nodes_to_exclude"}
    assert report.warnings[0].startswith("nothing was quantized")


def test_an_old_model_gets_the_opset_that_it_needs(tmp_path):
    model = build("g (float[m, 8] x) => (float[m, 4] y) { y = MatMul(x, w) }", made.weights(w=(8, 4)), opset=9)
    quantize(model, tmp_path / "q.onnx")
    assert onnx.load(tmp_path / "q.onnx").opset_import[0].version == 11


HALF = {
    "MatMul": ("g (float16[m, 8] x) => (float16[m, 4] y) { y = MatMul(x, w) }", (8, 4), (3, 8)),
    "Conv": ("g (float16[m, 2, 5, 5] x) => (float16[m, 3, 5, 5] y) { y = Conv(x, w, b) }", (3, 2, 1, 1), (3, 2, 5, 5)),
}


@pytest.mark.parametrize("op_type", [*HALF])
def test_half_precision_models_keep_their_types(op_type, tmp_path):
    text, shape, read = HALF[op_type]
    weights = {name: array.astype(np.float16) for name, array in made.weights(w=shape, b=shape[:1]).items()}
    model = build(text, weights if op_type == "Conv" else {"w": weights["w"]})
    assert quantize(model, tmp_path / "q.onnx", op_types_to_quantize=[op_type]).quantized == {op_type: 1}
    x = np.random.default_rng(0).standard_normal(read).astype(np.float16)
    (actual,) = run(onnx.load(tmp_path / "q.onnx"), {"x": x})
    assert actual.dtype == np.float16
    wide = {name: array.astype(float) for name, array in weights.items()}
    expected = x @ wide["w"] if op_type == "MatMul" else np.einsum("oi,nihw->nohw", wide["w"][:, :, 0, 0], x)
    expected += 0 if op_type == "MatMul" else wide["b"].reshape(-1, 1, 1)
    np.testing.assert_allclose(actual, expected, atol=0.06)
