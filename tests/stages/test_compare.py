"""Sums over structures of any kind, and the comparison of inner tensors."""

import math

import numpy as np
import onnx
import pytest

from models.build import build
from vqonnx.errors import VerificationError
from vqonnx.stages import compare as compare_stage
from vqonnx.stages.compare import compare, compare_tensors
from vqonnx.stages.output_sums import OutputSums

F32 = np.float32


def pair(tmp_path, first: str, second: str):
    paths = []
    for name, text in (("a", first), ("b", second)):
        onnx.save(build(text), tmp_path / f"{name}.onnx")
        paths.append(tmp_path / f"{name}.onnx")
    return paths


FEEDS = [{"x": np.array([1, -2, value], F32)} for value in (1, -1, -1)]
CHAIN = "g (float[3] x) => (float[3] y) { a = Abs (x) b = Neg (a) y = Exp (b) }"


def test_equal_models_are_exact(tmp_path):
    (y,) = compare(*pair(tmp_path, CHAIN, CHAIN), FEEDS)
    assert (y.sqnr_db, y.max_abs_error, y.elements) == (math.inf, 0.0, 9)


def test_inner_tensors_show_where_error_arises(tmp_path, monkeypatch):
    other = "g (float[3] x) => (float[3] y) { a = Abs (x) c = Neg (a) b = Round (c) t = Exp (b) y = Abs (t) }"
    feeds = [{"x": np.array([1.1, -2.2, 0.4], F32)}]
    whole = compare_tensors(*pair(tmp_path, CHAIN, other), feeds)
    assert [figures.name for figures in whole] == ["a", "b", "y"]
    assert whole[0].sqnr_db == math.inf
    assert whole[1].max_abs_error == pytest.approx(0.4)
    monkeypatch.setattr(compare_stage, "_GROUP", 2)
    assert compare_tensors(*pair(tmp_path, CHAIN, other), feeds) == whole


def test_sizes_that_the_data_decides_may_differ(tmp_path):
    body = "z = Constant <value = float[1] {0}> () m = Greater (x, z) y = NonZero (m)"
    positive = f"g (float[3] x) => (int64[1, K] y) {{ {body} }}"
    (y,) = compare(*pair(tmp_path, positive, positive.replace("Greater", "Less")), FEEDS)
    assert (y.other_shapes, y.elements, y.sqnr_db) == (3, 0, None)


def test_sequences_are_compared_item_by_item(tmp_path):
    text = "g (float[3] x) => (seq(float[3]) y) { a = Neg (x) y = SequenceConstruct (x, a) }"
    (y,) = compare(*pair(tmp_path, text, text.replace("(x, a)", "(x, x)")), FEEDS)
    assert y.max_abs_error == 4
    assert y.sqnr_db == pytest.approx(10 * math.log10(1 / 2))


def test_sequences_of_other_lengths_count_as_other_shapes():
    sums = OutputSums("y").add([np.ones(2, F32)], [np.ones(2, F32)] * 2)
    assert sums.figures().other_shapes == 1


def test_maps_are_compared_by_key():
    figures = OutputSums("y").add([{"cat": 1.0, "dog": 2.0}], [{"dog": 2.0, "cat": 1.5}]).figures()
    assert figures.max_abs_error == 0.5


def test_strings_and_integers_are_compared_for_equality():
    sums = OutputSums("y").add(np.array(["a", "b"], object), np.array(["a", "c"], object))
    assert sums.figures().equal == 0.5
    assert OutputSums("y").add(np.arange(4), np.array([0, 1, 2, 0])).figures().equal == 0.75


@pytest.mark.parametrize(
    ("reference", "actual", "message"),
    [
        (np.ones(2, F32), np.ones(2, np.int64), "another type .*: int64 instead of float32"),
        (np.ones(2, F32), [np.ones(2, F32)], "another kind .*: list instead of ndarray"),
        ({"a": 1.0}, {"b": 1.0}, r"another set of keys .*: \['b'\] instead of \['a'\]"),
        (np.ones(2, F32), np.ones((2, 1), F32), r"another shape .*: \(2, 1\) instead of \(2,\)"),
    ],
)
def test_other_structures_are_errors(reference, actual, message):
    with pytest.raises(VerificationError, match=message):
        OutputSums("y").add(reference, actual)


def test_a_sample_that_does_not_run_is_named(tmp_path):
    with pytest.raises(VerificationError, match="cannot run the float model on held-back sample 1"):
        compare(*pair(tmp_path, CHAIN, CHAIN), [FEEDS[0], {"x": np.ones((2, 2), F32)}])
