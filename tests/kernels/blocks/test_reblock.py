import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqonnx.core.blocks import block_count
from vqonnx.errors import OptionError
from vqonnx.kernels.blocks import reblock
from vqonnx.kernels.blocks.packing import dequantize_blocks, pack_blocks, unpack_codes, unpack_zero_points
from vqonnx.kernels.blocks.reblock import codes_in_blocks, with_block_size

SIZES = st.sampled_from([16, 32, 64, 128, 256])


@st.composite
def splits(draw):
    """Blocks of some size, or one that spans K, and a size that they can be cut to."""
    bits, k, n = draw(st.sampled_from([2, 4, 8])), draw(st.integers(1, 300)), draw(st.integers(1, 9))
    size = draw(SIZES | st.just(k))
    new = draw(SIZES if size >= k else SIZES.filter(lambda new: size % new == 0))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups = block_count(k, size)
    zero_points = rng.integers(0, 1 << bits, (n, groups), dtype=np.uint8) if draw(st.booleans()) else None
    codes = rng.integers(0, 1 << bits, (n, k), dtype=np.uint8)
    scales = rng.normal(size=(n, groups)).astype(np.float32)
    return pack_blocks(codes, scales, zero_points, bits=bits, block_size=size), new


@given(splits())
def test_smaller_blocks_mean_the_same_weight(case):
    blocks, size = case
    split = with_block_size(blocks, size)
    assert split.block_size == size
    np.testing.assert_array_equal(unpack_codes(split), unpack_codes(blocks))
    np.testing.assert_array_equal(dequantize_blocks(split), dequantize_blocks(blocks))
    assert split.symmetric == blocks.symmetric


@given(splits())
def test_the_padding_of_the_last_block_means_zero(case):
    blocks, size = case
    split = with_block_size(blocks, size)
    whole = pack_blocks(
        unpack_codes(split),
        split.scales,
        None if split.symmetric else unpack_zero_points(split),
        bits=blocks.bits,
        block_size=size,
    )
    np.testing.assert_array_equal(split.codes, whole.codes)


def test_codes_are_viewed_where_they_can_be(rng):
    blocks = pack_blocks(rng.integers(0, 16, (5, 256), dtype=np.uint8), np.ones((5, 1)), None, bits=4, block_size=256)
    assert np.shares_memory(codes_in_blocks(blocks, 64), blocks.codes)
    assert with_block_size(blocks, 256).codes is not None
    assert np.shares_memory(with_block_size(blocks, 256).scales, blocks.scales)


def test_rows_are_padded_a_few_at_a_time(rng, monkeypatch):
    blocks = pack_blocks(rng.integers(0, 16, (7, 40), dtype=np.uint8), np.ones((7, 1)), None, bits=4, block_size=40)
    expected = codes_in_blocks(blocks, 16)
    monkeypatch.setattr(reblock, "_CHUNK_CODES", 100)
    np.testing.assert_array_equal(codes_in_blocks(blocks, 16), expected)


def test_a_block_never_needs_two_scales(rng):
    blocks = pack_blocks(rng.integers(0, 16, (5, 64), dtype=np.uint8), np.ones((5, 2)), None, bits=4, block_size=32)
    with pytest.raises(OptionError, match="blocks of 32 cannot be split into blocks of 64"):
        with_block_size(blocks, 64)
