import numpy as np
import pytest

from vqonnx.algorithms.base import LayerProblem, find_algorithm
from vqonnx.algorithms.rtn import RtnConfig, round_to_nearest
from vqonnx.compat.neural_compressor.utility import quant_tensor, search_clip
from vqonnx.core.blocks import BlockSpec
from vqonnx.core.weight_plan import CodebookSpec
from vqonnx.errors import OptionError
from vqonnx.kernels.blocks.codebook import NF4, round_to_book
from vqonnx.kernels.blocks.packing import dequantize_blocks, unpack_codes
from vqonnx.kernels.blocks.rounding import round_blocks

SPECS = [BlockSpec(bits=bits, block_size=32, symmetric=symmetric) for bits in (2, 4, 8) for symmetric in (False, True)]
SPEC = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.bits}bit-{'sym' if spec.symmetric else 'asym'}")


@pytest.fixture
def weight(rng):
    return rng.normal(size=(80, 24)).astype(np.float32)


@SPEC
def test_the_default_is_the_whole_range(weight, spec):
    blocks, expected = round_to_nearest(weight, spec), round_blocks(weight, spec)
    np.testing.assert_array_equal(blocks.codes, expected.codes)
    np.testing.assert_array_equal(blocks.scales, expected.scales)


@SPEC
def test_a_smaller_quantile_shrinks_every_scale(weight, spec):
    whole, half = round_to_nearest(weight, spec), round_to_nearest(weight, spec, RtnConfig(quantile=0.5))
    np.testing.assert_allclose(half.scales, whole.scales / 2, rtol=1e-6)


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("quantile", [1.0, 0.75])
def test_symmetric_results_are_those_of_neural_compressor(weight, bits, full_range, quantile):
    spec = BlockSpec(bits=bits, block_size=32, symmetric=True)
    blocks = round_to_nearest(weight, spec, RtnConfig(full_range=full_range, quantile=quantile))
    peer = quant_tensor(weight.T, bits, 32, "sym", quantile, full_range=full_range)
    np.testing.assert_allclose(dequantize_blocks(blocks), peer.T, rtol=1e-5)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_asymmetric_results_are_those_of_neural_compressor_but_for_halves(weight, bits):
    blocks = round_to_nearest(weight, BlockSpec(bits=bits))
    codes, scales, _ = quant_tensor(weight.T, bits, 32, return_int=True)
    np.testing.assert_allclose(blocks.scales, scales, rtol=1e-6)
    assert (unpack_codes(blocks) == codes).mean() > 0.999


def test_without_the_full_range_the_lowest_code_is_left_out(weight):
    config = RtnConfig(full_range=False)
    blocks = round_to_nearest(weight, BlockSpec(symmetric=True), config)
    assert unpack_codes(blocks).min() == 1
    assert (blocks.scales > 0).all()


@SPEC
def test_doubly_quantized_scales_lie_on_a_grid_and_none_is_lost(weight, spec):
    weight[:, 3] *= 1e-6
    blocks = round_to_nearest(weight, spec, RtnConfig(double_quant=True, double_quant_group_size=16))
    groups = np.abs(blocks.scales[:16]).reshape(-1)[:32].reshape(2, 16)
    steps = groups / (groups.max(axis=1, keepdims=True) / 127)
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    assert (steps > 0.5).all()


def test_the_smallest_float16_scales_survive_being_quantized(weight):
    tiny = (weight * 1e-6).astype(np.float16)
    assert round_to_nearest(tiny, BlockSpec(), RtnConfig(double_quant=True)).scales.min() > 0


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_searched_quantile_is_neural_compressors(rng, symmetric):
    weight = rng.standard_t(3, size=(80, 24)).astype(np.float32)
    ratio = search_clip(weight.T, 4, 32, "sym" if symmetric else "asym", enable_full_range=True)
    assert ratio < 1
    spec = BlockSpec(symmetric=symmetric)
    searched = round_to_nearest(weight, spec, RtnConfig(mse_search=True))
    given = round_to_nearest(weight, spec, RtnConfig(quantile=ratio))
    np.testing.assert_array_equal(searched.codes, given.codes)
    np.testing.assert_allclose(searched.scales, given.scales, rtol=1e-6)


def test_a_code_book_takes_no_options_of_blocks(weight):
    problem = LayerProblem(weight=weight, spec=CodebookSpec())
    with pytest.raises(OptionError, match="'quantile' of 'rtn' has no meaning for a code book"):
        list(find_algorithm("rtn").solve([problem], RtnConfig(quantile=0.5)))
    (found,) = find_algorithm("rtn").solve([problem], RtnConfig())
    np.testing.assert_array_equal(found.packed.codes, round_to_book(weight, NF4, 64).codes)


@pytest.mark.parametrize(("option", "value"), [("quantile", 0), ("quantile", 1.1), ("double_quant_group_size", 0)])
def test_impossible_options_are_refused_by_name(option, value):
    with pytest.raises(OptionError, match=option):
        RtnConfig(**{option: value})
