import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqonnx.core.blocks import BlockSpec
from vqonnx.errors import OptionError, QuantRangeError
from vqonnx.kernels.blocks.packing import dequantize_blocks, unpack, unpack_codes, unpack_zero_points
from vqonnx.kernels.blocks.rounding import quantize_blocks, round_blocks

BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float32), np.dtype(np.float16), BF16]
F32 = np.float32


def roundf(x):
    """C's roundf: halves away from zero."""
    whole = np.trunc(x)
    return whole + np.where(np.abs(x - whole) >= 0.5, np.sign(x), 0).astype(F32)


def scale_of(step, dtype):
    """The scale that stands for a positive float32 step."""
    if dtype == BF16:
        down = (step.view(np.uint32) & 0xFFFF0000).view(F32)
        return np.where(down < step, np.nextafter(down.astype(BF16), BF16.type(np.inf)), down.astype(BF16))
    return step.astype(dtype)


def definition(weight, spec, ratios=1.0):
    """Codes [N, K], scales and zero points [N, J], as the docstring of ``blocks`` says, in plain numpy."""
    (k, n), size, top = weight.shape, spec.size_for(weight.shape[0]), F32((1 << spec.bits) - 1)
    blocks, middle = -(-k // size), F32(1 << (spec.bits - 1))
    real = np.pad(weight.astype(F32), ((0, blocks * size - k), (0, 0))).T.reshape(n, blocks, size)
    low = np.minimum(real.min(2), 0) * np.asarray(ratios, F32)
    high = np.maximum(real.max(2), 0) * np.asarray(ratios, F32)
    empty = (low == 0) & (high == 0)
    with np.errstate(over="ignore"):
        step = np.maximum(-low, high) / middle if spec.symmetric else (high - low) / top
    if not spec.symmetric:
        step = np.where(np.isinf(step), high / top - low / top, step)
    step = np.where(empty, F32(1), np.maximum(step, F32(2**-24 if weight.dtype == np.float16 else 2**-126)))
    scale = scale_of(step, weight.dtype)
    exact = scale.astype(F32) if weight.dtype == BF16 else step
    zero = roundf(np.minimum(-low / exact, top)) if not spec.symmetric else np.full(step.shape, middle)
    zero = np.where(empty & (not spec.symmetric), F32(0), zero).astype(F32)
    if spec.symmetric:
        scale = np.where((high > -low) & ~empty, -scale, scale)
    codes = encode(real, scale.astype(F32), zero, top)
    return codes.reshape(n, -1)[:, :k], scale, zero.astype(np.uint8)


def encode(real, scale, zero, top):
    code = real * (F32(1) / scale)[..., None] + zero[..., None]
    return roundf(np.clip(code, 0, top)).astype(np.uint8)


def assert_same(blocks, codes, scales, zero_points):
    np.testing.assert_array_equal(unpack_codes(blocks), codes)
    np.testing.assert_array_equal(blocks.scales.view(np.uint8), np.ascontiguousarray(scales).view(np.uint8))
    np.testing.assert_array_equal(unpack_zero_points(blocks), zero_points)


SPECS = st.builds(
    BlockSpec,
    bits=st.sampled_from([2, 4, 8]),
    block_size=st.sampled_from([16, 32, 64, 128, 256, -1]),
    symmetric=st.booleans(),
)


@st.composite
def weights(draw, dtypes=DTYPES):
    """Small matrices of many magnitudes, with constant, zero and one-sided channels among them."""
    dtype, k, n = draw(st.sampled_from(dtypes)), draw(st.integers(1, 150)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    exponents = (-9, 4) if dtype == np.float16 else (-42, 38)
    magnitude = F32(10.0) ** rng.integers(*exponents, n).astype(F32)
    weight = rng.normal(size=(k, n)).clip(-3, 3).astype(F32) * magnitude
    kind = rng.integers(0, 8, n)
    weight[:, kind == 0] = 0
    weight[:, kind == 1] = weight[0, kind == 1]
    weight[:, kind == 2] = np.abs(weight[:, kind == 2])
    weight[: k // 2, kind == 3] = 0
    return weight.astype(dtype)


@given(weights(), SPECS, st.booleans())
def test_the_kernel_is_bit_equal_to_its_definition_in_both_layouts(weight, spec, transposed):
    given_weight = np.ascontiguousarray(weight.T).T if transposed else weight
    assert_same(round_blocks(given_weight, spec), *definition(weight, spec))


@given(weights(), SPECS)
def test_no_weight_moves_by_more_than_a_step_and_zero_stays_zero(weight, spec):
    blocks = round_blocks(weight, spec)
    size, k = spec.size_for(weight.shape[0]), weight.shape[0]
    step = np.abs(np.repeat(blocks.scales.astype(np.float64), size, axis=1)[:, :k].T)
    error = np.abs(dequantize_blocks(blocks).astype(np.float64) - weight.astype(np.float64))
    rounding = np.abs(weight.astype(np.float64)) * (2**-7 if weight.dtype == BF16 else 2**-10)
    # Asymmetric: the zero point is rounded too, so an end of the range may be cut by half a step more. Symmetric:
    # there is no code for the mirror image of the largest magnitude, one whole step.
    if weight.dtype != np.float16 or step.min() > 2**-14:  # subnormal float16 scales are too coarse
        assert (error <= step * (1 + 2**-6) + rounding).all()
    assert not dequantize_blocks(blocks)[weight == 0].any()


@given(weights(), SPECS, st.integers(1, 5))
def test_the_result_does_not_depend_on_threads(weight, spec, threads):
    first, second = round_blocks(weight, spec, threads=1), round_blocks(weight, spec, threads=threads)
    np.testing.assert_array_equal(first.codes, second.codes)
    np.testing.assert_array_equal(first.scales, second.scales)


@pytest.mark.parametrize("block_size", [16, 256, -1])
def test_many_tiles_and_tasks_give_the_same_as_the_definition(rng, block_size):
    weight = rng.normal(size=(1100, 700)).astype(F32)
    spec = BlockSpec(block_size=block_size)
    assert_same(round_blocks(weight, spec), *definition(weight, spec))


@given(weights(), SPECS, st.floats(0.25, 1, width=32))
def test_ranges_are_multiplied_by_ratios(weight, spec, ratio):
    assert_same(round_blocks(weight, spec, ratios=ratio), *definition(weight, spec, ratio))


def test_every_block_may_have_its_own_ratio(rng):
    weight, spec = rng.normal(size=(70, 9)).astype(F32), BlockSpec()
    ratios = rng.uniform(0.5, 1, (9, 3)).astype(F32)
    assert_same(round_blocks(weight, spec, ratios=ratios), *definition(weight, spec, ratios))


@given(weights(), SPECS)
def test_given_parameters_give_what_choosing_the_same_ones_gives(weight, spec):
    chosen = round_blocks(weight, spec)
    zero_points = None if spec.symmetric else unpack_zero_points(chosen)
    again = quantize_blocks(weight, chosen.scales, zero_points, spec)
    np.testing.assert_array_equal(again.codes, chosen.codes)


@given(weights(), SPECS)
def test_quantizing_again_with_the_same_parameters_changes_nothing(weight, spec):
    chosen = round_blocks(weight, spec)
    zero_points = None if spec.symmetric else unpack_zero_points(chosen)
    dequantized = dequantize_blocks(chosen)
    if not np.isfinite(dequantized.astype(F32)).all():
        return  # the mirror image of the largest float16 has no float16
    again = quantize_blocks(dequantized, chosen.scales, zero_points, spec)
    if weight.dtype == BF16 and spec.bits == 8:  # 8 bits of mantissa hold not every multiple of the scale
        return
    np.testing.assert_array_equal(unpack_codes(again), unpack_codes(chosen))


def test_the_largest_magnitude_of_a_symmetric_block_is_exact(rng):
    weight = rng.normal(size=(64, 50)).astype(F32)
    real = dequantize_blocks(round_blocks(weight, BlockSpec(symmetric=True))).reshape(2, 32, 50)
    extreme = np.abs(weight.reshape(2, 32, 50)).argmax(axis=1, keepdims=True)
    expected = np.take_along_axis(weight.reshape(2, 32, 50), extreme, axis=1)
    np.testing.assert_array_equal(np.take_along_axis(real, extreme, axis=1), expected)


def test_codes_behind_the_last_row_mean_zero(rng):
    weight = rng.normal(3, 1, size=(33, 4)).astype(F32)
    blocks = round_blocks(weight, BlockSpec())
    tail = unpack(blocks.codes, 4, 32)[:, 1, 1:]
    np.testing.assert_array_equal(tail, np.broadcast_to(unpack_zero_points(blocks)[:, 1:], tail.shape))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_weight_that_is_not_finite_is_an_error(bad, dtype):
    weight = np.ones((40, 40), dtype)
    weight[35, 3] = bad
    with pytest.raises(QuantRangeError, match="NaN or infinite"):
        round_blocks(weight, BlockSpec())


@pytest.mark.parametrize("scale", [0, np.nan, np.inf])
def test_a_given_scale_must_be_usable(scale):
    with pytest.raises(QuantRangeError, match="finite and not 0"):
        quantize_blocks(np.ones((32, 1), F32), np.full((1, 1), scale, F32), None, BlockSpec(symmetric=True))


@pytest.mark.parametrize(("option", "value"), [("bits", 3), ("block_size", 48), ("block_size", 8), ("block_size", 512)])
def test_unknown_forms_are_refused_by_name(option, value):
    with pytest.raises(OptionError, match=str(value)) as caught:
        BlockSpec(**{option: value})
    assert caught.value.option == option


@pytest.mark.peer
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("block_size", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_results_are_those_of_the_packer_in_onnxruntime(rng, dtype, bits, block_size, symmetric):
    native = pytest.importorskip("onnxruntime.capi._pybind_state")
    packer = getattr(native, f"quantize_matmul_{bits}bits")
    k, n, blocks = 300, 70, -(-300 // block_size)
    weight = rng.normal(rng.normal(size=n) * 0.3, 0.1, (k, n)).astype(dtype)
    padded = np.pad(weight, ((0, blocks * block_size - k), (0, 0)))
    codes = np.zeros((n, blocks, block_size * bits // 8), np.uint8)
    scales, zero_points = np.zeros((n, blocks), dtype), np.zeros((n, -(-blocks * bits // 8)), np.uint8)
    packer(codes, padded, scales, zero_points, block_size, n, k, symmetric)
    mine = round_blocks(weight, BlockSpec(bits=bits, block_size=block_size, symmetric=symmetric))
    np.testing.assert_array_equal(mine.scales, scales)
    np.testing.assert_array_equal(unpack_codes(mine), unpack(codes, bits, block_size).reshape(n, -1)[:, :k])
    if not symmetric:
        np.testing.assert_array_equal(unpack_zero_points(mine), unpack(zero_points, bits, blocks))


def test_the_smallest_float16_weights_are_kept_exactly():
    weight = (np.arange(-3, 5).repeat(4)[:, None] * 2.0**-24).astype(np.float16)
    np.testing.assert_array_equal(dequantize_blocks(round_blocks(weight, BlockSpec())), weight)
