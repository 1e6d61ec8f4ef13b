import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqonnx.kernels import dpu


def test_the_common_slope_of_leaky_relus():
    assert dpu.leaky_relu_alpha(0.1) == 26 / 256


@given(st.floats(-4, 4))
def test_a_slope_is_the_nearest_multiple_of_a_256th(alpha):
    rounded = dpu.leaky_relu_alpha(alpha)
    assert (rounded * 256).is_integer()
    assert abs(rounded - alpha) <= 0.5 / 256


def test_the_hard_sigmoid_of_a_sigmoid():
    assert math.isclose(dpu.HARD_SIGMOID_FACTOR, (2731 / 16384) / (1 / 6), rel_tol=1e-15)
    assert dpu.is_hard_sigmoid(np.float32(1 / 6), 0.5)
    assert not dpu.is_hard_sigmoid(0.2, 0.5)
    assert not dpu.is_hard_sigmoid(1 / 6, 0.4)


@pytest.mark.parametrize(
    ("side", "factor"),
    [
        (3, 9 * 7 / 64),
        (5, 25 * 10 / 256),
        (6, 36 * 7 / 256),
        (7, 49 * 21 / 1024),
        (14, 196 * 21 / 4096),
        (1, 1),
        (4, 1),
    ],
)
def test_square_kernels_have_their_own_constants(side, factor):
    assert dpu.average_pool_factor(side, side) == factor


def test_other_kernels_follow_the_general_rule():
    assert dpu.average_pool_factor(3, 5) == dpu.mean_factor(15)
    assert dpu.average_pool_factor(16, 16) == 1
    assert dpu.average_pool_factor(255, 255) == dpu.mean_factor(255 * 255)
    assert dpu.average_pool_factor(256, 3) == 1
    assert dpu.average_pool_factor(1, 256) == 1


@given(st.integers(1, 70_000))
def test_the_shifted_reciprocal_is_the_nearest_of_all(count):
    k, n = dpu.shifted_reciprocal(count)
    limit = 7 + math.ceil(math.log2(count))
    assert 0 <= n < limit
    assert k < 256
    errors = [min(abs(j / 2**s - 1 / count) for j in (2**s // count, 2**s // count + 1)) for s in range(limit)]
    assert abs(k / 2**n - 1 / count) <= min(errors) * (1 + 1e-9)
    assert abs(dpu.mean_factor(count) - 1) < 2**-7


@given(st.floats(-300, 300))
def test_a_bound_is_the_nearest_int8(bound):
    rounded = dpu.clip_bound(bound)
    assert abs(rounded - bound) == min(abs(code - bound) for code in range(-128, 128))


def test_exp_has_the_precision_of_bfloat16():
    x = np.linspace(-80, 80, 20001, dtype=np.float32).astype(ml_dtypes.bfloat16)
    exact = np.exp(x.astype(np.float64))
    # x / ln 2 and n ln 2 are rounded to 8 bits, so that the relative error grows with |x|.
    limit = 0.02 + np.abs(x.astype(np.float64)) * 2.0**-7
    assert (np.abs(dpu.exp(x).astype(np.float64) / exact - 1) <= limit).all()


@given(st.integers(-100, 100), st.floats(1, 2))
def test_a_reciprocal_is_good_to_one_unit_in_the_last_place(exponent, mantissa):
    x = np.array(np.ldexp(mantissa, exponent)).astype(ml_dtypes.bfloat16)
    product = float(dpu.approximate_reciprocal(x)) * float(x)
    assert abs(product - 1) <= 2.0**-7


@pytest.mark.parametrize("reciprocal", [True, False])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_is_near_the_exact_one(reciprocal, axis):
    x = np.random.default_rng(0).normal(0, 2, (5, 10, 4)).astype(np.float32)
    powers = np.exp(x.astype(np.float64))
    exact = powers / powers.sum(axis=axis, keepdims=True)
    found = dpu.softmax(x, axis, reciprocal=reciprocal)
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(found.astype(np.float64), exact, rtol=0.1, atol=1e-3)


def test_every_step_of_exp_is_rounded_to_bfloat16():
    def narrow(value):
        return float(np.float32(value).astype(ml_dtypes.bfloat16))

    def scalar(x):
        n = math.floor(narrow(narrow(x) * narrow(1.4426950408889634)))
        r = narrow(narrow(x) - narrow(n * narrow(0.6931471805599453)))
        poly = narrow(narrow(narrow(0.21875 * r + 0.486328125) * r + 1) * r + 1)
        return narrow(2.0**n * poly)

    x = np.random.default_rng(1).normal(0, 8, 500).astype(np.float32)
    np.testing.assert_array_equal(dpu.exp(x).astype(np.float64), [scalar(value) for value in x])
