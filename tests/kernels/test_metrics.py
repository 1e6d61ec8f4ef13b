"""Figures of error: against the written-out formula, and the laws of the mergeable sums."""

import math
from dataclasses import astuple

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vqonnx.kernels import metrics
from vqonnx.kernels.metrics import ErrorSums, cosine, max_abs_error, sqnr_db

REALS = st.floats(-1e6, 1e6, width=32)


@st.composite
def pairs(draw):
    size = draw(st.integers(0, 20))
    vector = hnp.arrays(np.float32, size, elements=REALS)
    return draw(vector), draw(vector)


def close(left: ErrorSums, right: ErrorSums) -> None:
    np.testing.assert_allclose(astuple(left), astuple(right), rtol=1e-9, atol=1e-6)


@given(pairs())
def test_figures_agree_with_the_written_out_formulas(pair):
    r, a = (x.astype(np.float64) for x in pair)
    sums = ErrorSums.of(*pair)
    noise, signal = sum((r - a) ** 2), sum(r**2)
    expected = math.inf if noise == 0 else -math.inf if signal == 0 else 10 * math.log10(signal / noise)
    assert sums.sqnr_db == pytest.approx(expected, abs=1e-6)
    assert sums.max_abs_error == max(abs(r - a), default=0)
    assert sums.mean_error == pytest.approx(np.mean(a - r) if r.size else 0, rel=1e-6, abs=1e-6)
    norms = np.linalg.norm(r) * np.linalg.norm(a)
    assert sums.cosine == pytest.approx(r @ a / norms if norms else float(signal == sum(a**2)), abs=1e-6)


@given(pairs(), pairs(), pairs())
def test_merge_is_a_commutative_monoid(x, y, z):
    a, b, c = (ErrorSums.of(*pair) for pair in (x, y, z))
    assert a.merge(ErrorSums()) == a
    assert a.merge(b) == b.merge(a)
    close(a.merge(b).merge(c), a.merge(b.merge(c)))


@given(pairs(), pairs())
def test_merging_equals_measuring_at_once(x, y):
    whole = ErrorSums.of(np.concatenate([x[0], y[0]]), np.concatenate([x[1], y[1]]))
    close(ErrorSums.of(*x).merge(ErrorSums.of(*y)), whole)


@given(pairs())
def test_a_tensor_equals_itself(pair):
    x, _ = pair
    assert (sqnr_db(x, x), cosine(x, x), max_abs_error(x, x)) == (math.inf, pytest.approx(1.0), 0.0)


@given(pairs(), st.integers(-3, 3))
def test_sqnr_and_cosine_do_not_depend_on_the_unit(pair, exponent):
    r, a = pair
    factor = np.float64(2.0**exponent)
    assert sqnr_db(r * factor, a * factor) == pytest.approx(sqnr_db(r, a))
    assert cosine(r * factor, a * factor) == pytest.approx(cosine(r, a))


def test_large_tensors_are_measured_in_chunks(monkeypatch):
    rng = np.random.default_rng(0)
    r, a = rng.normal(size=(2, 7, 11))
    whole = ErrorSums.of(r, a)
    monkeypatch.setattr(metrics, "_CHUNK", 10)
    close(ErrorSums.of(r, a), whole)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_finite_number_that_became_nan_or_infinite_spoils_the_result(bad):
    sums = ErrorSums.of(np.array([1.0, 2.0]), np.array([1.0, bad]))
    assert (sums.broken, sums.sqnr_db, sums.max_abs_error) == (1, -math.inf, math.inf)


@pytest.mark.parametrize("actual", [5.0, -np.inf, np.nan])
def test_pairs_without_a_finite_reference_are_left_out(actual):
    sums = ErrorSums.of(np.array([1.0, -np.inf, np.nan]), np.array([1.0, actual, actual]))
    assert (sums.count, sums.broken, sums.sqnr_db) == (1, 0, math.inf)


@pytest.mark.parametrize(
    ("reference", "actual", "db", "angle"),
    [([0.0], [0.0], math.inf, 1.0), ([0.0], [1.0], -math.inf, 0.0), ([1.0], [0.0], 0.0, 0.0)],
)
def test_zero_signals_have_figures(reference, actual, db, angle):
    sums = ErrorSums.of(np.array(reference), np.array(actual))
    assert (sums.sqnr_db, sums.cosine) == (db, angle)


def test_large_magnitudes_do_not_overflow():
    x = np.array([1e150, -1e150])
    assert sqnr_db(x, x * 1.01) == pytest.approx(40, abs=1e-3)
    assert cosine(x, x) == pytest.approx(1.0)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16, np.int8, np.uint8])
def test_every_real_type_is_measured_in_float64(dtype):
    r, a = np.array([10, 100], dtype), np.array([11, 100], dtype)
    assert max_abs_error(r, a) == 1
    assert sqnr_db(r, a) == pytest.approx(10 * math.log10(10100))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"shapes differ: reference \(2,\), actual \(3,\)"):
        ErrorSums.of(np.zeros(2), np.zeros(3))
