import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqonnx.core.qtype import INT8
from vqonnx.core.spec import QuantSpec
from vqonnx.kernels.affine import dequantize, round_to_nearest
from vqonnx.kernels.bias import (
    BIAS_LIMIT,
    bias_scale,
    grown_weight_scale,
    mean_shift,
    quantize_bias,
    shifted_bias,
)

SCALES = st.floats(2.0**-100, 2.0**20, width=32)


def test_bias_scale_is_the_product_with_beta():
    scale = bias_scale(np.float32(0.5), np.array([1.0, 2.0], np.float32), beta=0.25)
    np.testing.assert_array_equal(scale, [0.125, 0.25])


def test_groups_repeat_the_weight_scale():
    scale = bias_scale(np.float32(2), np.array([1.0, 3.0], np.float32), repeats=2)
    np.testing.assert_array_equal(scale, [2, 6, 2, 6])


def test_codes_are_exact_to_half_a_step():
    bias = np.random.default_rng(0).normal(size=64).astype(np.float32)
    scale = bias_scale(np.float32(0.02), np.full(64, 1e-3, np.float32))
    quantized = quantize_bias(bias, scale)
    assert quantized.codes.dtype == np.int32
    assert not quantized.params.zero_point.any()
    assert np.abs(dequantize(quantized.codes, quantized.params) - bias).max() <= scale.max() / 2 * 1.001


@given(step=SCALES, weights=st.lists(SCALES, min_size=2, max_size=2), bias=st.floats(-(2.0**99), 2.0**99, width=32))
def test_a_grown_scale_makes_every_bias_fit(step, weights, bias):
    weight_scale = np.array(weights, np.float32)
    biases = np.array([bias, 0, 0, bias / 2], np.float32)
    grown = grown_weight_scale(weight_scale, np.float32(step), biases, repeats=2)
    assert (grown >= weight_scale).all()
    codes = quantize_bias(biases, bias_scale(np.float32(step), grown, repeats=2)).codes
    assert np.abs(codes.astype(np.float64)).max() <= BIAS_LIMIT * 1.001


def test_a_scale_grows_just_enough():
    weight_scale = np.array([1e-3, 1e-12], np.float32)
    grown = grown_weight_scale(weight_scale, np.float32(1e-2), np.array([1.0, 1.0], np.float32))
    assert grown[0] == weight_scale[0]
    np.testing.assert_allclose(grown[1], 1 / (1e-2 * BIAS_LIMIT), rtol=1e-6)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_mean_shift_is_the_mean_of_what_rounding_takes(rng, groups):
    x = rng.normal(1, 1, size=(16, 4 * groups, 1, 1))
    error = rng.normal(size=(6 * groups, 4, 3, 3))
    shift = mean_shift(error, x.mean(axis=(0, 2, 3)))
    for o in range(6 * groups):
        inputs = x[:, 4 * (o // 6) : 4 * (o // 6) + 4, 0, 0]
        np.testing.assert_allclose(shift[o], (inputs * error[o].sum(axis=(1, 2))).sum(axis=1).mean())


def test_a_shifted_bias_moves_by_whole_steps_and_saturates():
    bias = quantize_bias(np.array([1.0, -2.0, 0.0], np.float32), np.array([0.5, 0.25, 2.0**-31]))
    moved = shifted_bias(bias, np.array([0.6, -0.1, 5.0]))
    np.testing.assert_array_equal(moved.codes, [3, -8, 2**31 - 1])
    assert moved.params is bias.params


def test_an_int8_bias_stays_int8():
    spec = QuantSpec(qtype=INT8, symmetric=True)
    bias = round_to_nearest(np.array([1.27, -0.5], np.float32), spec)
    moved = shifted_bias(bias, np.array([0.02, -0.02]))
    assert moved.codes.dtype == np.int8
    np.testing.assert_array_equal(moved.codes, [127, -52])
