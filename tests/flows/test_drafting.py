"""The loop around the stages: which draft wins, and what goes back to float."""

import numpy as np
import onnx.parser
import pytest

from vqonnx import quantize_static
from vqonnx.errors import OptionError
from vqonnx.graph.io import load
from vqonnx.runtime.session import open_session


def chain(outlier=1.0, seed=0):
    """Three products in a row; a column of the second's input is ``outlier`` times the others, and undone behind it."""
    rng = np.random.default_rng(seed)
    weights = {name: rng.normal(size=(32, 32)).astype(np.float32) / 5 for name in ("a", "b", "c")}
    spread = np.array([outlier] + [1] * 31, np.float32)
    weights["a"] *= spread
    weights["b"] /= spread[:, None]
    weights["b"][0] = 0
    for name in ("a_bias", "b_bias", "c_bias"):
        weights[name] = rng.normal(size=32).astype(np.float32) / 10
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 17]> g (float[N, 32] x) => (float[N, 32] y) {'
        " [first] p = Gemm (x, a, a_bias) q = Relu (p) [second] r = Gemm (q, b, b_bias) s = Relu (r)"
        " [third] y = Gemm (s, c, c_bias) }"
    )
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


@pytest.fixture
def feeds(rng):
    return [{"x": rng.normal(size=(8, 32)).astype(np.float32)} for _ in range(24)]


def test_what_collapses_goes_back_to_float_and_is_told(feeds, tmp_path):
    model = chain(outlier=3000.0)
    plain = quantize_static(model, tmp_path / "plain.onnx", feeds, guard=False, bias_correction="off")
    assert plain.verification.worst_db < 10
    assert any("SQNR" in warning for warning in plain.warnings)
    guarded = quantize_static(model, tmp_path / "guarded.onnx", feeds, bias_correction="off")
    assert guarded.verification.worst_db >= 10
    assert guarded.guard
    assert {action.subject for action in guarded.guard} <= {"first", "second", "third"}
    assert all(action.reason for action in guarded.guard)


def test_a_good_model_is_left_alone(feeds, tmp_path):
    report = quantize_static(chain(), tmp_path / "m.onnx", feeds)
    assert report.guard == ()
    assert report.verification.worst_db > 25
    assert report.quantized["Gemm"] == 3


def test_the_best_of_two_range_methods_is_written_and_named(feeds, tmp_path):
    figures = {}
    for method in ("MSE", "Mean"):
        report = quantize_static(
            chain(), tmp_path / f"{method}.onnx", feeds, calibrate_method=method, bias_correction="off"
        )
        figures[method] = report.verification.worst_db
    both = quantize_static(chain(), tmp_path / "both.onnx", feeds, bias_correction="off")
    assert both.verification.worst_db == pytest.approx(max(figures.values()))
    chosen = {option.name: option.value for option in both.options}["ranges"]
    assert chosen == max(figures, key=figures.get).lower()


@pytest.mark.parametrize("kind", ["on", "fast", "off", "auto"])
def test_bias_correction_does_what_it_is_told(kind, feeds, tmp_path):
    report = quantize_static(chain(), tmp_path / "m.onnx", feeds, bias_correction=kind, calibrate_method="MinMax")
    if kind == "off":
        assert report.bias_correction is None
    else:
        assert report.bias_correction.corrected == 3
        assert report.bias_correction.kept or kind == "auto"
        assert report.verification.worst_db == pytest.approx(
            report.bias_correction.after_db if report.bias_correction.kept else report.bias_correction.before_db
        )


def channel_means(model, feeds):
    session = open_session(model)
    return np.concatenate([session.run(None, feed)[0] for feed in feeds]).mean(axis=0)


def test_corrected_biases_bring_the_means_back(feeds, tmp_path):
    """Coarse weights shift the means; on the samples that calibrate, correction takes the shift out."""
    seen = [feed for index, feed in enumerate(feeds) if index % 8 != 7]
    path, wanted = tmp_path / "m.onnx", channel_means(load(chain()), seen)
    shifts = {}
    for kind in ("off", "on"):
        options = {"UseQDQContribOps": True}
        quantize_static(
            chain(), path, feeds, bias_correction=kind, weight_type="QInt4", extra_options=options, guard=False
        )
        shifts[kind] = np.abs(channel_means(path, seen) - wanted).max()
    assert shifts["on"] < 0.1 * shifts["off"]


def test_an_unknown_choice_names_the_known_ones(feeds, tmp_path):
    with pytest.raises(OptionError, match=r"bias_correction: 'of' is none of .*did you mean 'off'"):
        quantize_static(chain(), tmp_path / "m.onnx", feeds, bias_correction="of")
