import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqonnx.kernels.blocks.cholesky import cholesky, inverse_of_upper

SIZES = [1, 7, 128, 129, 300, 600]


def moment(rng, samples, k):
    x = rng.normal(size=(samples, k)) * np.exp(rng.normal(size=k))
    return x.T @ x


@pytest.mark.parametrize("size", SIZES)
def test_factors_are_lapacks(rng, size):
    matrix = moment(rng, 2 * size, size)
    lower, dependent = cholesky(matrix, 0.0)
    np.testing.assert_allclose(lower, np.linalg.cholesky(matrix), rtol=1e-8, atol=1e-9)
    assert not dependent.any()


@pytest.mark.parametrize("samples", [1, 40, 299])
def test_a_singular_matrix_is_factored_up_to_rounding(rng, samples):
    matrix = moment(rng, samples, 300)
    lower, dependent = cholesky(matrix, 1e-7)
    scale = np.sqrt(np.outer(np.diagonal(matrix), np.diagonal(matrix)))
    assert np.abs((lower @ lower.T - matrix) / scale).max() < 2e-7
    assert (~dependent).sum() >= samples - 1
    assert not lower[:, dependent].any()


def test_rounding_of_the_matrix_does_not_blow_up(rng):
    """A product in single precision of a few loud directions and many still ones is not semidefinite any more."""
    x = (rng.normal(size=(100, 400)) * np.exp(3 * rng.normal(size=400))).astype(np.float32)
    rounded = (x.T @ x).astype(np.float64)
    assert np.linalg.eigvalsh(rounded)[0] < 0
    lower, dependent = cholesky(rounded, 1e-6)
    scale = np.sqrt(np.outer(np.diagonal(rounded), np.diagonal(rounded)))
    assert np.abs((lower @ lower.T - rounded) / scale).max() < 1e-3
    assert 95 < (~dependent).sum() < 110


@given(st.integers(1, 20), st.integers(0, 20), st.integers(0, 9))
def test_repeated_and_silent_features_are_left_out(k, samples, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, k))
    x[:, k // 2] = 0
    x = np.concatenate([x, x[:, :1]], axis=1)
    lower, dependent = cholesky(x.T @ x, 1e-10)
    assert dependent[k // 2]
    assert dependent[k]
    np.testing.assert_allclose(lower @ lower.T, x.T @ x, atol=1e-8)


def test_an_indefinite_matrix_is_told(rng):
    matrix = moment(rng, 500, 200)
    matrix[150, 150] = -1
    assert cholesky(matrix, 0.0)[1][150]
    matrix[150, 150] = np.nan
    assert cholesky(matrix, 0.0)[1][150]


@pytest.mark.parametrize("size", SIZES)
def test_inverses_are_lapacks(rng, size):
    upper = np.triu(rng.normal(size=(size, size)) / np.sqrt(size)) + 2 * np.eye(size)
    junk = upper + np.tril(rng.normal(size=(size, size)), -1)
    inverse = inverse_of_upper(junk)
    np.testing.assert_allclose(inverse, np.linalg.inv(upper), atol=1e-10)
    assert not np.tril(inverse, -1).any()


def test_results_do_not_depend_on_the_number_of_threads(rng):
    matrix = moment(rng, 900, 600)
    factors = [cholesky(matrix, 0.0, threads=threads)[0] for threads in (1, 2, 3)]
    assert len({factor.tobytes() for factor in factors}) == 1
    assert len({inverse_of_upper(factors[0].T, threads=threads).tobytes() for threads in (1, 2, 3)}) == 1
