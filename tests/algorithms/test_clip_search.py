import numpy as np
import pytest

from vqonnx.algorithms.clip_search import ClipSearchConfig, clip_search, layer_ratio
from vqonnx.core.blocks import BlockSpec
from vqonnx.errors import OptionError
from vqonnx.kernels.blocks.grid import min_max_grid, nearest_values
from vqonnx.kernels.blocks.packing import dequantize_blocks
from vqonnx.kernels.blocks.rounding import round_blocks

SPECS = [BlockSpec(bits=bits, symmetric=symmetric) for bits in (2, 4, 8) for symmetric in (False, True)]


def weights(rng):
    return rng.standard_t(4, size=(100, 12)).astype(np.float32), rng.gamma(1.0, size=100)


def errors_by_ratio(weight, energy, spec, config):
    """[R, J, N], in plain numpy."""
    grid, found = min_max_grid(weight, spec), []
    for ratio in config.candidates():
        values = nearest_values(weight, grid.scaled(ratio), spec)
        errors = energy[:, None] * np.square(weight.astype(np.float64) - values)
        found.append(np.add.reduceat(errors, np.arange(0, len(weight), spec.block_size), axis=0))
    return np.array(found)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_each_block_takes_the_ratio_of_its_least_error(rng, spec):
    (weight, energy), config = weights(rng), ClipSearchConfig()
    expected = errors_by_ratio(weight, energy, spec, config).min(axis=0)
    errors = energy[:, None] * np.square(weight - dequantize_blocks(clip_search(weight, spec, energy, config)))
    found = np.add.reduceat(errors, np.arange(0, 100, 32), axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_one_ratio_for_the_layer_is_the_best_of_all(rng, spec):
    (weight, energy), config = weights(rng), ClipSearchConfig(smallest=0.805, ratios=40, per_layer=True)
    totals = errors_by_ratio(weight, energy, spec, config).sum(axis=(1, 2))
    ratio = layer_ratio(weight, spec, energy, config)
    assert ratio == pytest.approx(float(config.candidates()[totals.argmin()]))
    blocks = clip_search(weight, spec, energy, config)
    np.testing.assert_allclose(blocks.scales.T, min_max_grid(weight, spec).scaled(np.float32(ratio)).scales)


def test_the_ratio_1_is_round_to_nearest(rng):
    weight, _ = weights(rng)
    clipped, rounded = (
        clip_search(weight, BlockSpec(), config=ClipSearchConfig(ratios=1)),
        round_blocks(weight, BlockSpec()),
    )
    np.testing.assert_array_equal(clipped.codes, rounded.codes)
    np.testing.assert_array_equal(clipped.scales, rounded.scales)


def test_float16_weights_keep_float16_scales(rng):
    weight = weights(rng)[0].astype(np.float16)
    assert clip_search(weight, BlockSpec()).scales.dtype == np.float16


def test_bad_options_are_named():
    with pytest.raises(OptionError, match=r"smallest is a share and must lie in \(0, 1\], got 1.5"):
        ClipSearchConfig(smallest=1.5)
    with pytest.raises(OptionError, match="ratios must be at least 1"):
        ClipSearchConfig(ratios=0)
