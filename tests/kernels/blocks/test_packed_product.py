from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqonnx.algorithms.rtn import round_to_nearest
from vqonnx.core.blocks import BlockSpec
from vqonnx.kernels.blocks.codebook import FP4, NF4, dequantize_from_book, round_to_book
from vqonnx.kernels.blocks.packed_product import packed_product
from vqonnx.kernels.blocks.packing import dequantize_blocks


def arrays(k: int, n: int, rows: int, dtype: type = np.float32):
    rng = np.random.default_rng(k + n)
    return rng.normal(size=(rows, k)).astype(np.float32), rng.normal(0.1, 1, (k, n)).astype(dtype)


@given(
    k=st.integers(1, 100),
    n=st.integers(1, 9),
    rows=st.integers(1, 5),
    bits=st.sampled_from([2, 4, 8]),
    size=st.sampled_from([16, 32, -1]),
    symmetric=st.booleans(),
)
def test_it_is_the_product_with_the_dequantized_weight(k, n, rows, bits, size, symmetric):
    x, weight = arrays(k, n, rows)
    packed = round_to_nearest(weight, BlockSpec(bits=bits, block_size=size, symmetric=symmetric))
    expected = x.astype(np.float64) @ dequantize_blocks(packed)
    np.testing.assert_allclose(packed_product(x, packed), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("book", [NF4, FP4], ids=["nf4", "fp4"])
@pytest.mark.parametrize(("k", "n"), [(33, 5), (64, 300)])
def test_code_books_are_multiplied_too(book, k, n):
    x, weight = arrays(k, n, 3)
    packed = round_to_book(weight, book, 16)
    expected = x.astype(np.float64) @ dequantize_from_book(packed)
    np.testing.assert_allclose(packed_product(x, packed), expected, rtol=1e-4, atol=1e-4)


def test_half_precision_scales_and_inputs_are_widened():
    x, weight = arrays(48, 7, 2, np.float16)
    packed = round_to_nearest(weight, BlockSpec())
    assert packed.scales.dtype == np.float16
    half = x.astype(np.float16)
    wide = replace(packed, scales=packed.scales.astype(np.float32))
    expected = half.astype(np.float64) @ dequantize_blocks(wide)
    np.testing.assert_allclose(packed_product(half, packed), expected, rtol=1e-4, atol=1e-4)


def test_the_result_does_not_depend_on_threads():
    x, weight = arrays(256, 700, 4)
    packed = round_to_nearest(weight, BlockSpec())
    whole = packed_product(x, packed, threads=1)
    assert packed_product(x, packed, threads=3).tobytes() == whole.tobytes()
