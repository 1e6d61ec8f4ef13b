import numpy as np
import pytest

from vqonnx.algorithms.awq import AwqConfig, awq
from vqonnx.algorithms.base import LayerProblem, find_algorithm
from vqonnx.core.blocks import BlockSpec
from vqonnx.errors import OptionError
from vqonnx.kernels.blocks.errors import SecondMoment
from vqonnx.kernels.blocks.hessian import output_error
from vqonnx.kernels.blocks.packing import dequantize_blocks
from vqonnx.kernels.blocks.rounding import round_blocks


def layer(rng, k=128, n=24):
    """A weight, and inputs of which a few are far larger than the rest."""
    x = rng.normal(size=(1000, k)) * np.where(np.arange(k) % 31 == 0, 20.0, 1.0)
    return rng.normal(size=(k, n)).astype(np.float32), x.T @ x


@pytest.mark.parametrize("symmetric", [False, True])
def test_alpha_0_without_clipping_is_round_to_nearest(rng, symmetric):
    weight, hessian = layer(rng)
    spec = BlockSpec(symmetric=symmetric)
    solution, rounded = awq(weight, hessian, spec, AwqConfig(alphas=1, clip=False)), round_blocks(weight, spec)
    assert (solution.channel_scales == 1).all()
    np.testing.assert_array_equal(solution.blocks.codes, rounded.codes)
    np.testing.assert_array_equal(solution.blocks.scales, rounded.scales)
    assert solution.error == solution.rounding_error


@pytest.mark.parametrize(
    "config",
    [
        AwqConfig(),
        AwqConfig(by_weight=False),
        AwqConfig(clip=False),
        AwqConfig(search=False),
        AwqConfig(columns=5),
    ],
)
@pytest.mark.parametrize("symmetric", [False, True])
def test_salient_inputs_gain_and_the_errors_are_as_reported(rng, config, symmetric):
    weight, hessian = layer(rng)
    spec = BlockSpec(symmetric=symmetric)
    solution = awq(weight, hessian, spec, config)
    rounded = dequantize_blocks(round_blocks(weight, spec))
    effective = dequantize_blocks(solution.blocks) / solution.channel_scales[:, None]
    assert solution.rounding_error == pytest.approx(output_error(weight, rounded, hessian), rel=1e-4)
    assert solution.error == pytest.approx(output_error(weight, effective, hessian), rel=1e-4)
    assert solution.error < 0.6 * solution.rounding_error
    assert (solution.channel_scales > 0).all()


def test_it_is_never_worse_than_round_to_nearest(rng):
    for _ in range(20):
        weight = rng.standard_t(3, size=(48, 5)).astype(np.float16)
        hessian = np.diag(rng.gamma(0.5, size=48))
        solution = awq(weight, hessian, BlockSpec(bits=2, block_size=16), AwqConfig(columns=1))
        assert solution.error <= solution.rounding_error
        assert solution.blocks.scales.dtype == np.float16


def test_magnitudes_may_be_given(rng):
    weight, hessian = layer(rng)
    by_size = awq(weight, hessian, BlockSpec(), magnitude=np.sqrt(np.diagonal(hessian)))
    np.testing.assert_array_equal(by_size.channel_scales, awq(weight, hessian, BlockSpec()).channel_scales)


def test_silent_inputs_and_zero_weights_are_no_trouble(rng):
    weight, hessian = layer(rng)
    hessian[5], hessian[:, 5] = 0, 0
    assert np.isfinite(awq(weight, hessian, BlockSpec()).channel_scales).all()
    assert awq(np.zeros_like(weight), hessian, BlockSpec()).error == 0


def test_layers_on_the_same_inputs_share_their_channel_scales(rng):
    """The scales are those of the least sum of relative errors; one weight is far larger than the other."""
    weight, hessian = layer(rng)
    other = 1000 * rng.normal(size=(128, 40)).astype(np.float32)
    moment = SecondMoment(hessian)
    problems = [LayerProblem(weight=w, spec=BlockSpec(), hessian=moment, scalable=True) for w in (weight, other)]
    one, two = find_algorithm("awq").solve(problems, AwqConfig())
    np.testing.assert_array_equal(one.channel_scales, two.channel_scales)
    for problem, found in zip(problems, (one, two), strict=True):
        values = dequantize_blocks(found.packed) / found.channel_scales[:, None]
        rounded = dequantize_blocks(round_blocks(problem.weight, BlockSpec()))
        error, before = (output_error(problem.weight, v, hessian) for v in (values, rounded))
        assert error < 0.6 * before


def test_inputs_that_cannot_be_scaled_leave_clipping(rng):
    weight, hessian = layer(rng)
    problem = LayerProblem(weight=weight, spec=BlockSpec(), hessian=SecondMoment(hessian))
    (found,) = find_algorithm("awq").solve([problem], AwqConfig())
    assert found.channel_scales is None
    rounded = dequantize_blocks(round_blocks(weight, BlockSpec()))
    assert output_error(weight, dequantize_blocks(found.packed), hessian) < output_error(weight, rounded, hessian)


def test_scaled_float16_weights_may_leave_float16(rng):
    """Only their scales are stored in float16."""
    weight = (60000 * rng.uniform(-1, 1, size=(64, 8))).astype(np.float16)
    hessian = np.diag(np.where(np.arange(64) % 9 == 0, 1e4, 1.0))
    solution = awq(weight, hessian, BlockSpec(), AwqConfig(clip=False))
    assert (weight.astype(np.float64) * solution.channel_scales[:, None]).max() > 65504
    assert solution.error < solution.rounding_error


def test_bad_options_are_named():
    with pytest.raises(OptionError, match="alphas must be at least 1"):
        AwqConfig(alphas=0)
