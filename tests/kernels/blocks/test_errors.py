import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqonnx.core.blocks import BlockSpec
from vqonnx.kernels.blocks.codebook import NF4, book_columns, dequantize_from_book, round_to_book
from vqonnx.kernels.blocks.errors import Candidate, SecondMoment, output_errors, output_norms, weight_errors
from vqonnx.kernels.blocks.packing import dequantize_blocks
from vqonnx.kernels.blocks.rounding import round_blocks

SPECS = [
    BlockSpec(bits=bits, block_size=size, symmetric=symmetric)
    for bits in (2, 4, 8)
    for size in (16, 32, -1)
    for symmetric in (False, True)
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_the_weight_s_error_is_the_sum_of_squares(rng, spec, transposed):
    weight = rng.normal(size=(77, 70)).astype(np.float32)
    weight = np.ascontiguousarray(weight.T).T if transposed else weight
    packed = round_blocks(weight, spec)
    whole, missed = weight_errors(weight, packed)
    exact = weight.astype(np.float64)
    assert whole == pytest.approx(np.square(exact).sum(), rel=1e-6)
    assert missed == pytest.approx(np.square(exact - dequantize_blocks(packed)).sum(), rel=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_float_types_are_read_as_they_are(rng, dtype):
    weight = rng.normal(size=(64, 9)).astype(dtype)
    weight.flags.writeable = False
    packed = round_blocks(weight, BlockSpec(bits=2))
    whole, missed = weight_errors(weight, packed)
    exact = weight.astype(np.float64)
    assert whole == pytest.approx(np.square(exact).sum(), rel=1e-6)
    assert missed == pytest.approx(
        np.square(exact - dequantize_blocks(packed)).sum(), rel=1e-2
    )  # the definition rounds its result to the type


@pytest.mark.parametrize("k", [64, 63])
def test_a_code_book_s_error_is_the_sum_of_squares(rng, k):
    """Also of columns that begin in the middle of a byte and of a block."""
    weight = rng.normal(size=(k, 300)).astype(np.float32)
    packed = round_to_book(weight, NF4, 32)
    values = dequantize_from_book(packed)
    for left, right in ((0, 1), (5, 8), (150, 300)):
        np.testing.assert_array_equal(book_columns(packed, left, right), values[:, left:right])
    whole, missed = weight_errors(weight, packed)
    assert whole == pytest.approx(np.square(weight, dtype=np.float64).sum(), rel=1e-6)
    assert missed == pytest.approx(np.square(weight - values, dtype=np.float64).sum(), rel=1e-5)


def moment(rng, samples, k):
    x = rng.normal(size=(samples, k)) @ np.diag(np.exp(2 * rng.normal(size=k)))
    return x.T @ x


def trace_error(weight, values, hessian):
    change = weight.astype(np.float64) - values
    return np.einsum("kn,kj,jn->", change, hessian, change)


@pytest.mark.parametrize("samples", [3, 400])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_output_s_error_is_the_trace(rng, samples, scaled):
    """For several candidates and sets of inputs at once, of fewer inputs than features too."""
    weight, hessian, other = rng.normal(size=(300, 140)).astype(np.float32), moment(rng, samples, 300), np.eye(300)
    t = np.exp(rng.normal(size=300)).astype(np.float32) if scaled else np.ones(300, np.float32)
    blocks, book = round_blocks(weight * t[:, None], BlockSpec(bits=2)), round_to_book(weight, NF4, 64)
    candidates = [Candidate(blocks, t if scaled else None), Candidate(book)]
    found = output_errors(weight, candidates, [SecondMoment(hessian), SecondMoment(other)])
    values = [np.zeros_like(weight), dequantize_blocks(blocks) / t[:, None], dequantize_from_book(book)]
    expected = np.array([[trace_error(weight, value, h) for value in values] for h in (hessian, other)])
    np.testing.assert_allclose(found, expected[:, 1:], rtol=2e-5)
    norms = output_norms(weight, [SecondMoment(hessian), SecondMoment(other)])
    np.testing.assert_allclose(norms, expected[:, 0], rtol=2e-5)
    assert SecondMoment(hessian).output_error(weight - values[2]) == pytest.approx(expected[0, 2], rel=2e-5)


def test_a_root_of_nothing_is_nothing():
    assert not SecondMoment(np.zeros((5, 5))).root.any()


@given(st.integers(1, 40), st.integers(0, 60), st.integers(0, 9))
def test_a_root_multiplies_to_its_moment(k, samples, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(samples, k)) * 10.0 ** rng.integers(-3, 3, k)
    root = SecondMoment(x.T @ x).root.astype(np.float64)
    assert not np.triu(root, 1).any()
    np.testing.assert_allclose(root @ root.T, x.T @ x, atol=1e-6 * float(np.diagonal(x.T @ x).max(initial=0)))


def test_errors_against_the_inputs_main_directions_keep_their_digits(rng):
    """A product with H itself would lose them in single precision."""
    direction = rng.normal(size=200)
    hessian = 1e4 * np.outer(direction, direction) + np.eye(200)
    weight = rng.normal(size=(200, 10)).astype(np.float32)
    values = dequantize_blocks(round_blocks(weight, BlockSpec(bits=8))).astype(np.float64)
    change = weight - values
    change -= np.outer(direction, direction @ change) / (direction @ direction)
    packed = round_blocks(weight, BlockSpec(bits=8))
    near = (values + change).astype(np.float32)
    (found,) = output_errors(near, [Candidate(packed)], [SecondMoment(hessian)])
    assert found[0] == pytest.approx(trace_error(near, dequantize_blocks(packed), hessian), rel=1e-4)


def test_errors_do_not_depend_on_the_number_of_threads(rng):
    weight, inputs = rng.normal(size=(128, 700)).astype(np.float32), SecondMoment(moment(rng, 300, 128))
    packed = round_blocks(weight, BlockSpec())
    sums = [output_errors(weight, [Candidate(packed)], [inputs], threads=threads) for threads in (1, 2, 3)]
    assert len({array.tobytes() for array in sums}) == 1
    assert len({weight_errors(weight, packed, threads=threads) for threads in (1, 2, 3)}) == 1
