import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import helper

from tests.kernels.running import run_op, tensor
from vqonnx.errors import OptionError, QuantRangeError
from vqonnx.kernels.blocks.codebook import (
    CODE_BOOKS,
    FP4,
    FP4_E2M1,
    NF4,
    code_book,
    dequantize_from_book,
    nearest_level,
    round_to_book,
)

BOOKS = pytest.mark.parametrize("book", [NF4, FP4, FP4_E2M1], ids=lambda book: book.name)
BNB = pytest.mark.parametrize("book", [NF4, FP4], ids=lambda book: book.name)


@BOOKS
def test_a_book_is_ascending_with_largest_magnitude_one_and_zero_has_code_zero(book):
    assert (np.diff(book.values) > 0).all()
    assert np.abs(book.values).max() == 1
    assert book.codes[book.values == 0] == [0]
    assert len(set(book.codes.tolist())) == book.values.size
    assert -8 <= book.codes.min() <= book.codes.max() <= 7


def test_books_have_the_published_values():
    np.testing.assert_allclose(FP4.levels[8:], [0.0625, 2, 3, 4, 6, 8, 12])
    np.testing.assert_allclose(FP4_E2M1.levels[8:], [0.0625, 1, 1.5, 2, 3, 4, 6])
    assert NF4.values[8] == np.float32(0.07958029955625534)
    assert CODE_BOOKS["fp4_e2m1_bnb"] is FP4


@BOOKS
@given(values=hnp.arrays(np.float32, st.integers(1, 50), elements=st.floats(-2, 2, width=32)))
def test_no_value_of_the_book_is_nearer(book, values):
    distance = np.abs(values.astype(np.float64)[:, None] - book.values)
    chosen = np.take_along_axis(distance, nearest_level(values, book.values)[:, None].astype(int), axis=1)[:, 0]
    assert (chosen <= distance.min(axis=1) + 1e-7).all()


@BOOKS
def test_the_books_own_values_stay_and_halfway_goes_down(book):
    np.testing.assert_array_equal(nearest_level(book.values, book.values), np.arange(book.values.size))
    middles = (book.values[1:] + book.values[:-1]) / 2
    np.testing.assert_array_equal(nearest_level(middles, book.values), np.arange(middles.size))


@BNB
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("shape", [(64, 8), (33, 5), (7, 3)])
def test_quantizing_what_was_dequantized_changes_nothing(rng, book, dtype, shape):
    weight = rng.normal(size=shape).astype(dtype)
    first = round_to_book(weight, book, 16)
    second = round_to_book(dequantize_from_book(first), book, 16)
    np.testing.assert_array_equal(second.codes, first.codes)
    np.testing.assert_array_equal(second.absmax, first.absmax)


@BNB
def test_zeros_stay_zeros(book):
    blocks = round_to_book(np.zeros((32, 3), np.float32), book, 16)
    assert (blocks.absmax == 1).all()
    np.testing.assert_array_equal(dequantize_from_book(blocks), 0)


@BNB
@pytest.mark.parametrize("shape", [(64, 8), (48, 5)])
@pytest.mark.parametrize("block_size", [16, 64, 256])
def test_onnxruntime_computes_with_the_weights_that_we_mean(rng, book, shape, block_size):
    (k, n), x = shape, rng.normal(size=(3, shape[0])).astype(np.float32)
    blocks = round_to_book(rng.normal(size=shape).astype(np.float32), book, block_size)
    node = helper.make_node(
        "MatMulBnb4", ["x", "b", "s"], ["y"], domain="com.microsoft",
        K=k, N=n, block_size=block_size, quant_type=book.quant_type,
    )  # fmt: skip
    actual = run_op(node, {"x": x}, [tensor("b", blocks.codes), tensor("s", blocks.absmax)])
    np.testing.assert_allclose(actual, x @ dequantize_from_book(blocks), rtol=1e-4, atol=1e-4)


@pytest.mark.peer
@BNB
@pytest.mark.parametrize("shape", [(64, 8), (33, 5), (300, 40)])
def test_codes_are_those_of_the_packer_in_onnxruntime(rng, book, shape):
    native = pytest.importorskip("onnxruntime.capi._pybind_state")
    k, n = shape
    weight = rng.normal(size=shape).astype(np.float32)
    codes, absmax = np.zeros((k * n + 1) // 2, np.uint8), np.zeros(-(-k * n // 64), np.float32)
    native.quantize_matmul_bnb4(codes, weight.T.copy(), absmax, 64, book.quant_type, n, k)
    mine = round_to_book(weight, book, 64)
    np.testing.assert_array_equal(mine.absmax, absmax)
    theirs = type(mine)(codes=codes, absmax=absmax, book=book.name, block_size=64, in_features=k, out_features=n)
    np.testing.assert_array_equal(dequantize_from_book(mine), dequantize_from_book(theirs))  # FP4 has two zeros
    if book is NF4:
        np.testing.assert_array_equal(mine.codes[: k * n // 2], codes[: k * n // 2])


def test_what_matmul_bnb4_lacks_is_refused():
    with pytest.raises(OptionError, match="fp4_e2m1"):
        round_to_book(np.ones((16, 1), np.float32), FP4_E2M1, 16)
    with pytest.raises(OptionError, match="did you mean 'nf4'"):
        code_book("nf5")
    with pytest.raises(QuantRangeError):
        round_to_book(np.full((16, 1), np.nan, np.float32), NF4, 16)
