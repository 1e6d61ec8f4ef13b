import itertools

import numpy as np
import pytest

from vqonnx.algorithms.base import LayerProblem, find_algorithm
from vqonnx.algorithms.gptq import Feedback, GptqConfig, Grid, gptq
from vqonnx.core.blocks import BlockSpec
from vqonnx.errors import OptionError, QuantRangeError
from vqonnx.kernels.blocks.errors import SecondMoment
from vqonnx.kernels.blocks.grid import min_max_grid, nearest_values
from vqonnx.kernels.blocks.hessian import output_error
from vqonnx.kernels.blocks.packing import dequantize_blocks, unpack_codes, unpack_zero_points
from vqonnx.kernels.blocks.rounding import round_blocks

PLAIN = GptqConfig(grid=Grid.MIN_MAX)
FIXED = GptqConfig(grid=Grid.MIN_MAX, static_grids=True)


def correlated(rng, samples, k, rank):
    return rng.normal(size=(samples, rank)) @ rng.normal(size=(rank, k)) + 0.3 * rng.normal(size=(samples, k))


def definition(weight, hessian, spec, damping, order):
    """Optimal brain quantization in a fixed order, on fixed grids: no Cholesky factor, no steps, double precision.

    After row i is rounded, the rest answer by ``-e * Hinv[:, i] / Hinv[i, i]``, and row i leaves the inverse by a step
    of Gaussian elimination (Frantar et al. 2022, equations 2 and 3).
    """
    grid, size, top = min_max_grid(weight, spec), spec.size_for(len(weight)), 2**spec.bits - 1
    w, codes = weight.astype(np.float64), np.empty(weight.shape, np.uint8)
    inverse = np.linalg.inv(hessian + damping * np.diagonal(hessian).mean() * np.eye(len(weight)))
    for i in order:
        scale, zero = (part[i // size].astype(np.float64) for part in (grid.scales, grid.zero_points))
        codes[i] = np.trunc(np.clip(w[i] / scale + zero, 0, top) + 0.5)
        error = (w[i] - (codes[i] - zero) * scale) / inverse[i, i]
        w -= inverse[:, i : i + 1] * error
        inverse = inverse - np.outer(inverse[:, i], inverse[i]) / inverse[i, i]
    return codes


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("by_activation", [False, True])
def test_codes_are_those_of_optimal_brain_quantization(rng, symmetric, by_activation):
    """Through several steps of 128 rows and a short last block; with act-order the codes come back in place."""
    spec = BlockSpec(block_size=32, symmetric=symmetric)
    weight = rng.normal(size=(300, 7)).astype(np.float32)
    x = correlated(rng, 1000, 300, 40) * np.exp(0.5 * rng.normal(size=300))
    hessian = x.T @ x
    order = np.argsort(-np.diagonal(hessian), kind="stable") if by_activation else range(300)
    config = GptqConfig(grid=Grid.MIN_MAX, static_grids=True, order_by_activation=by_activation)
    blocks = gptq(weight, hessian, spec, config)
    expected = definition(weight, hessian, spec, config.damping, order)
    # float32 feedback may flip a code that lies on the edge between two, and those after it in its column
    assert (expected == unpack_codes(blocks).T).mean() > 0.98
    np.testing.assert_array_equal(blocks.scales, min_max_grid(weight, spec).scales.T)


def test_tiny_weights_lie_between_round_to_nearest_and_the_exhaustive_optimum(rng):
    spec = BlockSpec(bits=2, block_size=-1)
    levels = np.array(list(itertools.product(range(4), repeat=4)), np.float64).T
    excess = []
    for _ in range(60):
        weight = rng.normal(size=(4, 2)).astype(np.float32)
        x = correlated(rng, 50, 4, 2)
        hessian, grid = x.T @ x, min_max_grid(weight, spec)
        best = 0.0
        for n in range(2):
            change = weight[:, n : n + 1] - (levels - grid.zero_points[0, n]) * grid.scales[0, n]
            best += np.einsum("kc,kj,jc->c", change, hessian, change).min()
        solved = output_error(weight, dequantize_blocks(gptq(weight, hessian, spec, FIXED)), hessian)
        rounded = output_error(weight, nearest_values(weight, grid, spec), hessian)
        assert solved >= best * (1 - 1e-6)
        excess.append((solved - best, rounded - best))
    solved, rounded = np.sum(excess, axis=0)
    assert solved < 0.5 * rounded


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_without_correlation_it_is_round_to_nearest(rng, bits, symmetric):
    spec = BlockSpec(bits=bits, block_size=16, symmetric=symmetric)
    weight = rng.normal(size=(150, 9)).astype(np.float32)
    solved, rounded = gptq(weight, np.eye(150), spec, PLAIN), round_blocks(weight, spec)
    np.testing.assert_array_equal(solved.codes, rounded.codes)
    np.testing.assert_array_equal(solved.scales, rounded.scales)
    np.testing.assert_array_equal(unpack_zero_points(solved), unpack_zero_points(rounded))


@pytest.mark.parametrize("block_size", [16, 32, 256, -1])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    "config",
    [GptqConfig(), PLAIN, FIXED, GptqConfig(order_by_activation=True)],
    ids=["search", "minmax", "fixed", "order"],
)
def test_correlated_inputs_are_met_with_far_less_output_error(rng, block_size, symmetric, config):
    spec = BlockSpec(block_size=block_size, symmetric=symmetric)
    weight = rng.normal(size=(300, 16)).astype(np.float32)
    x = correlated(rng, 2000, 300, 32)
    hessian = x.T @ x
    rounded = output_error(weight, dequantize_blocks(round_blocks(weight, spec)), hessian)
    solved = output_error(weight, dequantize_blocks(gptq(weight, hessian, spec, config)), hessian)
    assert solved < 0.25 * rounded


def test_the_result_does_not_depend_on_the_number_of_threads(rng):
    weight, x = rng.normal(size=(200, 700)).astype(np.float32), correlated(rng, 500, 200, 20)
    one, three = (gptq(weight, x.T @ x, BlockSpec(), threads=threads) for threads in (1, 3))
    np.testing.assert_array_equal(one.codes, three.codes)
    np.testing.assert_array_equal(one.scales, three.scales)


def test_a_column_does_not_depend_on_its_neighbours(rng):
    weight, x = rng.normal(size=(96, 40)).astype(np.float32), correlated(rng, 500, 96, 20)
    whole, part = gptq(weight, x.T @ x, BlockSpec(), FIXED), gptq(weight[:, :40:2], x.T @ x, BlockSpec(), FIXED)
    assert (whole.codes[::2] == part.codes).mean() > 0.999  # BLAS may sum a narrower product in another order


def test_dead_inputs_neither_disturb_nor_are_lost(rng):
    weight, x = rng.normal(size=(64, 8)).astype(np.float32), correlated(rng, 500, 64, 8)
    x[:, [3, 40]] = 0
    blocks = gptq(weight, x.T @ x, BlockSpec(), FIXED)
    rounded = round_blocks(weight, BlockSpec())
    np.testing.assert_array_equal(unpack_codes(blocks)[:, [3, 40]], unpack_codes(rounded)[:, [3, 40]])
    assert np.isfinite(dequantize_blocks(gptq(weight, np.zeros((64, 64)), BlockSpec()))).all()


def test_float16_weights_are_solved_on_the_scales_as_stored(rng):
    weight, x = rng.normal(size=(64, 8)).astype(np.float16), correlated(rng, 500, 64, 8)
    blocks = gptq(weight, x.T @ x, BlockSpec())
    assert blocks.scales.dtype == np.float16
    rounded = dequantize_blocks(round_blocks(weight, BlockSpec()))
    assert output_error(weight, dequantize_blocks(blocks), x.T @ x) < 0.5 * output_error(weight, rounded, x.T @ x)


def test_damping_is_raised_where_it_does_not_suffice(rng):
    """A Hessian that is not quite positive definite, as rounding of large sums leaves it."""
    x = correlated(rng, 500, 32, 8)
    hessian = x.T @ x
    hessian -= 1.02 * np.linalg.eigvalsh(hessian)[0] * np.eye(32)
    hessian -= 0.03 * np.diagonal(hessian).mean() * np.eye(32)
    feedback = Feedback.of(hessian, GptqConfig())
    assert feedback.damping == pytest.approx(0.1)
    assert np.isfinite(feedback.factor).all()


def test_weights_on_the_same_inputs_share_one_factor(rng, monkeypatch):
    made = []
    monkeypatch.setattr(Feedback, "of", lambda *args, original=Feedback.of: made.append(1) or original(*args))
    x = correlated(rng, 500, 64, 8)
    moments = [SecondMoment(x.T @ x), SecondMoment(2 * x.T @ x)]
    weights = [rng.normal(size=(64, n)).astype(np.float32) for n in (8, 20, 4)]
    problems = [
        LayerProblem(weight=weight, spec=BlockSpec(), hessian=moment)
        for weight, moment in zip(weights, [moments[0], moments[0], moments[1]], strict=True)
    ]
    found = list(find_algorithm("gptq").solve(problems, GptqConfig()))
    assert len(made) == 2
    for weight, solution in zip(weights, found, strict=True):
        alone = gptq(weight, x.T @ x, BlockSpec())
        np.testing.assert_array_equal(solution.packed.codes, alone.codes)


def test_channel_scales_come_first_where_the_graph_undoes_them(rng):
    """Salient inputs: the scaled weights are solved on the Hessian of the divided inputs, and err less."""
    x = correlated(rng, 2000, 64, 32) * np.where(np.arange(64) % 13 == 0, 20, 1)
    weights = [rng.normal(size=(64, n)).astype(np.float32) for n in (24, 40)]
    moment = SecondMoment(x.T @ x)
    problems = [LayerProblem(weight=w, spec=BlockSpec(), hessian=moment, scalable=True) for w in weights]
    found = list(find_algorithm("gptq").solve(problems, GptqConfig()))
    t = found[0].channel_scales.astype(np.float64)
    np.testing.assert_array_equal(found[1].channel_scales, found[0].channel_scales)
    for weight, solution in zip(weights, found, strict=True):
        scaled = weight * found[0].channel_scales[:, None]
        alone = gptq(scaled, x.T @ x / np.outer(t, t), BlockSpec())
        assert (alone.codes == solution.packed.codes).mean() > 0.999  # the division may round otherwise
        plain = gptq(weight, x.T @ x, BlockSpec())
        errors = [
            output_error(weight, values, x.T @ x)
            for values in (dequantize_blocks(solution.packed) / t[:, None], dequantize_blocks(plain))
        ]
        assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize(("scalable", "config"), [(False, GptqConfig()), (True, GptqConfig(channel_scales=False))])
def test_without_leave_there_are_no_channel_scales(rng, scalable, config):
    x = correlated(rng, 500, 64, 32) * np.where(np.arange(64) % 13 == 0, 20, 1)
    weight = rng.normal(size=(64, 24)).astype(np.float32)
    problem = LayerProblem(weight=weight, spec=BlockSpec(), hessian=SecondMoment(x.T @ x), scalable=scalable)
    (found,) = find_algorithm("gptq").solve([problem], config)
    assert found.channel_scales is None
    np.testing.assert_array_equal(found.packed.codes, gptq(weight, x.T @ x, BlockSpec()).codes)


def test_bad_input_is_named(rng):
    weight = rng.normal(size=(32, 4)).astype(np.float32)
    with pytest.raises(OptionError, match=r"of 32 inputs must have shape \(32, 32\)"):
        gptq(weight, np.eye(31), BlockSpec())
    with pytest.raises(OptionError, match="finite"):
        gptq(weight, np.full((32, 32), np.nan), BlockSpec())
    with pytest.raises(OptionError, match="raise damping"):
        gptq(weight, np.eye(32) + 2 * (np.eye(32, k=1) + np.eye(32, k=-1)), BlockSpec())
    with pytest.raises(OptionError, match="damping is a share"):
        GptqConfig(damping=0.0)
    with pytest.raises(QuantRangeError, match="NaN"):
        gptq(np.full((32, 4), np.nan, np.float32), np.eye(32), BlockSpec())
