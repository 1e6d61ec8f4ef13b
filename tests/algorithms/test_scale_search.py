import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vqonnx.algorithms.scale_search import ScaleSearchConfig, scale_search, search_grid
from vqonnx.core.blocks import BlockSpec
from vqonnx.errors import OptionError, QuantRangeError
from vqonnx.kernels.blocks.grid import min_max_grid, nearest_values
from vqonnx.kernels.blocks.packing import dequantize_blocks, unpack_zero_points

SPECS = st.builds(
    BlockSpec, bits=st.sampled_from([2, 4, 8]), block_size=st.sampled_from([16, 32]), symmetric=st.booleans()
)
WEIGHTS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 70), st.integers(1, 5)), elements=st.floats(-1e4, 1e4, width=32)
)


def block_errors(weight, values, energy, size):
    errors = energy[:, None] * np.square(weight.astype(np.float64) - values)
    return np.add.reduceat(errors, np.arange(0, len(weight), size), axis=0)


def definition(w, energy, spec, config):
    """The search for one block [B], in plain numpy and double precision."""
    top = 2**spec.bits - 1
    grid = min_max_grid(w[:, None], spec)
    start, zero0 = float(grid.scales[0, 0]), float(grid.zero_points[0, 0])
    low, high = min(w.min(), 0), max(w.max(), 0)
    middle = 2 ** (spec.bits - 1)
    largest = middle / (middle - 1) if spec.symmetric else 1.0
    trials = [(start, zero0)]
    for ratio in np.linspace(config.smallest, largest, config.ratios).astype(np.float32):
        if spec.symmetric:
            trials += [(start * ratio, zero0), (-start * ratio, zero0)]
            continue
        for step in range(-config.zero_steps, config.zero_steps + 1):
            zero = min(max(zero0 + step, 0), top)
            up = high / (top - zero) if zero < top else 0
            down = -low / zero if zero > 0 else 0
            trials.append((ratio * max(up, down), zero))

    def levels(scale, zero):
        return np.trunc(np.clip(w / scale + zero, 0, top) + 0.5) - zero

    def error(scale, zero):
        return (energy * (w - scale * levels(scale, zero)) ** 2).sum()

    def best_of(trials, best):
        for scale, zero in trials:
            q = levels(scale, zero)
            if (q * q).any():
                refit = (energy * w * q).sum() / (energy * q * q).sum()
                best = min(best, ((energy * (w - refit * q) ** 2).sum(), refit, zero))
        return best

    best = best_of(trials, (np.inf, start, zero0))
    steps = np.arange(-config.finer, config.finer + 1) / (config.finer + 1)
    factors = 1 + steps * (largest - config.smallest) / config.ratios / ((largest + config.smallest) / 2)
    _, scale, zero = best_of([(best[1] * factor, best[2]) for factor in factors if factor != 1], best)
    for _ in range(config.rounds):
        q = levels(scale, zero)
        scale = (energy * w * q).sum() / (energy * q * q).sum()
    return min(error(scale, zero), error(start, zero0))


@given(WEIGHTS, SPECS, st.integers(0, 9))
def test_no_block_is_worse_than_rounded_to_nearest(weight, spec, seed):
    energy = np.random.default_rng(seed).gamma(0.3, size=len(weight)).astype(np.float32) + np.float32(1e-6)
    rounded = nearest_values(weight, min_max_grid(weight, spec), spec)
    searched = nearest_values(weight, search_grid(weight, energy, spec), spec)
    before = block_errors(weight, rounded, energy, spec.block_size)
    after = block_errors(weight, searched, energy, spec.block_size)
    # float32 rounding of code * scale is the only slack
    assert (after <= before * (1 + 1e-5) + 1e-12 * np.square(weight.astype(np.float64)).max()).all()


@given(WEIGHTS, SPECS)
def test_grids_are_valid(weight, spec):
    grid = search_grid(weight, np.ones(len(weight), np.float32), spec)
    assert np.isfinite(grid.scales).all()
    assert (grid.scales != 0).all()
    assert spec.symmetric or (grid.scales > 0).all()
    assert ((grid.zero_points >= 0) & (grid.zero_points < 2**spec.bits)).all()
    assert (grid.zero_points == np.rint(grid.zero_points)).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_compiled_search_finds_what_its_definition_finds(rng, bits, symmetric):
    spec, config = BlockSpec(bits=bits, block_size=32, symmetric=symmetric), ScaleSearchConfig()
    weight = rng.normal(size=(32, 200)).astype(np.float32)
    energy = rng.gamma(1.0, size=32).astype(np.float32)
    found = block_errors(weight, nearest_values(weight, search_grid(weight, energy, spec), spec), energy, 32)[0]
    expected = [definition(column.astype(np.float64), energy.astype(np.float64), spec, config) for column in weight.T]
    # Where two starts are as good within float32, either may win: nearly all blocks agree, and the sum does.
    assert (np.abs(found - expected) <= 1e-5 * found).mean() > 0.97
    assert found.sum() == pytest.approx(np.sum(expected), rel=1e-3)


def test_it_gains_what_it_should(rng):
    """Least squares gains about a tenth over min/max on Gaussian weights at 4 bits."""
    weight = rng.normal(size=(512, 64)).astype(np.float32)
    for symmetric, share in ((False, 0.91), (True, 0.90)):
        spec = BlockSpec(symmetric=symmetric)
        rounded = nearest_values(weight, min_max_grid(weight, spec), spec)
        error = np.square(weight - dequantize_blocks(scale_search(weight, spec))).sum()
        assert error < share * np.square(weight - rounded).sum()


def test_energy_moves_the_error_to_rows_that_matter_less(rng):
    weight = rng.normal(size=(64, 32)).astype(np.float32)
    energy = np.where(np.arange(64) % 2, 100.0, 0.01)
    plain = np.square(weight - dequantize_blocks(scale_search(weight, BlockSpec()))).sum(1)
    weighted = np.square(weight - dequantize_blocks(scale_search(weight, BlockSpec(), energy))).sum(1)
    assert weighted[1::2].sum() < 0.8 * plain[1::2].sum()
    assert (energy * weighted).sum() < (energy * plain).sum()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_every_float_type_keeps_its_own_scales(rng, dtype):
    weight = rng.normal(size=(50, 6)).astype(dtype)
    blocks = scale_search(weight, BlockSpec(block_size=16))
    assert blocks.scales.dtype == (np.float32 if dtype == np.float64 else dtype)
    assert unpack_zero_points(blocks).max() <= 15
    assert np.abs(dequantize_blocks(blocks).astype(np.float64) - weight).max() < 0.4


def test_one_scale_a_channel(rng):
    weight = rng.normal(size=(100, 4)).astype(np.float32)
    assert scale_search(weight, BlockSpec(bits=8, block_size=-1)).scales.shape == (4, 1)


def test_bad_input_is_named(rng):
    weight = rng.normal(size=(32, 4)).astype(np.float32)
    with pytest.raises(OptionError, match="32 finite numbers >= 0"):
        scale_search(weight, BlockSpec(), np.ones(31))
    with pytest.raises(OptionError, match="smallest"):
        ScaleSearchConfig(smallest=0)
    with pytest.raises(OptionError, match="rounds must be at least 0"):
        ScaleSearchConfig(rounds=-1)
    with pytest.raises(OptionError, match="favour"):
        ScaleSearchConfig(favour=-1.0)
    with pytest.raises(QuantRangeError, match="two axes"):
        scale_search(weight[0], BlockSpec())
    weight[3, 1] = np.nan
    with pytest.raises(QuantRangeError, match="NaN"):
        scale_search(weight, BlockSpec())
