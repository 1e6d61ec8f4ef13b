import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqonnx.algorithms.hqq import HqqConfig, hqq
from vqonnx.core.blocks import BlockSpec
from vqonnx.errors import OptionError
from vqonnx.kernels.blocks.grid import min_max_grid
from vqonnx.kernels.blocks.packing import dequantize_blocks, unpack_zero_points
from vqonnx.kernels.blocks.rounding import round_blocks


def objective(weight, blocks):
    """Sum of |error|^(3/4) of each block, [J, N]."""
    errors = np.abs(weight.astype(np.float64) - dequantize_blocks(blocks)) ** 0.75
    return np.add.reduceat(errors, np.arange(0, len(weight), blocks.block_size), axis=0)


def definition(w, bits, thresholds):
    """Scale and zero point of one block [B] after the rounds, in plain numpy."""
    top, w = 2**bits - 1, w.astype(np.float64)
    grid = min_max_grid(w[:, None].astype(np.float32), BlockSpec(bits=bits, block_size=-1))
    scale, z = float(grid.scales[0, 0]), float(grid.zero_points[0, 0])

    def codes(scale, zero):
        return np.trunc(np.clip(w / scale + zero, 0, top) + 0.5)

    def error(scale, zero):
        return (np.abs(w - (codes(scale, zero) - zero) * scale) ** 0.75).sum()

    best = (error(scale, z), scale, z)
    for threshold in thresholds.astype(np.float64):
        q = codes(scale, z)
        miss = w - (q - z) * scale
        size = np.maximum(np.abs(miss), 1e-36)
        kept = w - np.sign(miss) * np.maximum(np.abs(miss) - threshold * size**-0.25, 0)
        z = (q - kept / scale).mean()
        zero = np.clip(np.rint(z), 0, top)
        squares, product = ((q - zero) ** 2).sum(), ((q - zero) * kept).sum()
        refit = product / squares if squares > 0 and product > 0 else scale
        best = min(best, (error(refit, zero), refit, zero))
    return best[0]


@given(st.integers(0, 1000), st.sampled_from([2, 4, 8]), st.sampled_from([16, 32]))
def test_more_rounds_never_raise_the_objective(seed, bits, block_size):
    weight = np.random.default_rng(seed).standard_t(3, size=(80, 6)).astype(np.float32)
    spec = BlockSpec(bits=bits, block_size=block_size)
    previous = objective(weight, round_blocks(weight, spec))
    for rounds in (0, 1, 2, 5, 20):
        now = objective(weight, hqq(weight, spec, HqqConfig(rounds=rounds)))
        assert (now <= previous * (1 + 1e-5)).all()
        previous = now


def test_the_compiled_rounds_are_those_of_the_definition(rng):
    weight, config = rng.normal(size=(32, 100)).astype(np.float32), HqqConfig(rounds=5)
    found = objective(weight, hqq(weight, BlockSpec(), config))[0]
    expected = [definition(column, 4, config.thresholds()) for column in weight.T]
    assert (np.abs(found - expected) <= 1e-4 * found).mean() > 0.97  # a code on the edge may go either way
    assert found.sum() == pytest.approx(np.sum(expected), rel=1e-3)


def test_outliers_are_forgiven(rng):
    weight = rng.normal(size=(256, 16)).astype(np.float32)
    weight[::32] *= 6
    before, after = round_blocks(weight, BlockSpec()), hqq(weight, BlockSpec())
    assert objective(weight, after).sum() < 0.99 * objective(weight, before).sum()


def test_zero_points_are_whole_and_scales_positive(rng):
    blocks = hqq(rng.normal(size=(70, 5)).astype(np.float16) + np.float16(2), BlockSpec(bits=2, block_size=16))
    assert blocks.scales.dtype == np.float16
    assert (blocks.scales > 0).all()
    assert unpack_zero_points(blocks).max() <= 3


def test_zeros_stay_zero():
    assert not dequantize_blocks(hqq(np.zeros((40, 3), np.float32), BlockSpec())).any()


def test_bad_input_is_named(rng):
    with pytest.raises(OptionError, match="symmetric=False"):
        hqq(rng.normal(size=(32, 4)), BlockSpec(symmetric=True))
    with pytest.raises(OptionError, match="beta must be > 0"):
        HqqConfig(beta=0.0)
    with pytest.raises(OptionError, match="rounds"):
        HqqConfig(rounds=-1)
