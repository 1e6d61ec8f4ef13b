import numpy as np
import pytest

from vqonnx.errors import OptionError
from vqonnx.kernels.blas import one_blas_thread, over_columns
from vqonnx.kernels.blocks.hessian import accumulate, column_errors, damped, inverse_factor, output_error


@pytest.mark.parametrize("k", [1, 7, 256, 300])
def test_sums_are_those_of_numpy(rng, k):
    hessian, x = np.zeros((k, k)), rng.normal(size=(3, 50, k)).astype(np.float32)
    accumulate(hessian, x)
    accumulate(hessian, x[0].astype(np.float16))
    rows = np.concatenate([x.reshape(-1, k), x[0].astype(np.float16)]).astype(np.float64)
    np.testing.assert_allclose(hessian, rows.T @ rows, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(hessian, hessian.T)


def test_sums_do_not_depend_on_threads(rng):
    x, found = rng.normal(size=(997, 577)).astype(np.float32), []
    for threads in (1, 2, 5):
        hessian = np.zeros((577, 577))
        accumulate(hessian, x, threads=threads)
        found.append(hessian)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_bad_inputs_are_named():
    with pytest.raises(OptionError, match=r"\(2, 3\) do not end in the Hessian's 4 features"):
        accumulate(np.zeros((4, 4)), np.zeros((2, 3)))
    with pytest.raises(OptionError, match="NaN"):
        accumulate(np.zeros((3, 3)), np.full((2, 3), np.nan))


def test_output_error_is_the_squared_change_of_the_output(rng):
    x, weight, other = rng.normal(size=(90, 20)), rng.normal(size=(20, 300)), rng.normal(size=(20, 300))
    expected = np.square(x @ (weight - other))
    np.testing.assert_allclose(column_errors(weight, other, x.T @ x), expected.sum(axis=0))
    assert output_error(weight, other, x.T @ x) == pytest.approx(expected.sum())


@pytest.mark.parametrize("k", [1, 63, 64, 65, 300])
def test_the_factor_is_upper_and_gives_the_inverse(rng, k):
    x = rng.normal(size=(2 * k, k))
    hessian = x.T @ x + np.eye(k)
    factor = inverse_factor(hessian)
    np.testing.assert_array_equal(factor, np.triu(factor))
    np.testing.assert_allclose(factor.T @ factor @ hessian, np.eye(k), atol=1e-8)
    np.testing.assert_allclose(factor, np.linalg.cholesky(np.linalg.inv(hessian)).T, rtol=1e-6, atol=1e-9)


def test_damping_leaves_dead_inputs_alone():
    hessian = np.diag([2.0, 0.0, 4.0])
    np.testing.assert_allclose(damped(hessian, 0.5), np.diag([3.0, 1.0, 5.0]))
    assert hessian[0, 0] == 2.0


def test_blas_gets_its_threads_back(rng):
    with one_blas_thread() as outer, one_blas_thread() as inner:
        assert outer == inner
    x = rng.normal(size=(200, 300)).astype(np.float32)
    np.testing.assert_allclose(x.T @ x, x.T.astype(np.float64) @ x, rtol=1e-3, atol=1e-3)


def test_tiles_are_the_same_for_any_number_of_threads():
    for threads in (1, 2, 7):
        tiles = []
        over_columns(lambda left, right, seen=tiles: seen.append((left, right)), 300, tile=64, threads=threads)
        assert sorted(tiles) == [(0, 64), (64, 128), (128, 192), (192, 256), (256, 300)]
