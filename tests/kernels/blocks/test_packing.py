import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.kernels.running import run_op, tensor
from vqonnx.core.blocks import BlockSpec, KMajorBlocks, QuantizedBlocks, packed_bytes
from vqonnx.errors import OptionError
from vqonnx.kernels.blocks.packing import (
    dequantize_blocks,
    from_k_major,
    k_major_codes,
    k_major_scales,
    k_major_zero_points,
    pack,
    pack_blocks,
    slice_channels,
    unpack,
    unpack_codes,
    unpack_zero_points,
)
from vqonnx.kernels.blocks.rounding import round_blocks

BITS = st.sampled_from([2, 4, 8])
SIZES = st.sampled_from([16, 32, 64, 256])


def to_k_major(blocks: QuantizedBlocks) -> KMajorBlocks:
    """The same codes for DequantizeLinear: signed without zero points where symmetric, else unsigned with them."""
    return KMajorBlocks(
        codes=k_major_codes(blocks),
        scales=k_major_scales(blocks),
        zero_points=None if blocks.symmetric else k_major_zero_points(blocks),
        signed=blocks.symmetric,
        bits=blocks.bits,
        block_size=blocks.block_size,
        in_features=blocks.in_features,
        out_features=blocks.out_features,
    )


@st.composite
def blocks_of(draw):
    """Random codes, scales and zero points, packed."""
    bits, k, n = draw(BITS), draw(st.integers(1, 100)), draw(st.integers(1, 20))
    size = draw(st.one_of(SIZES, st.just(k)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups = -(-k // size)
    codes = rng.integers(0, 1 << bits, (n, k), dtype=np.uint8)
    zero_points = rng.integers(0, 1 << bits, (n, groups), dtype=np.uint8) if draw(st.booleans()) else None
    scales = rng.normal(size=(n, groups)).astype(np.float32)
    return codes, scales, zero_points, pack_blocks(codes, scales, zero_points, bits=bits, block_size=size)


@given(BITS, st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_unpacking_gives_back_what_was_packed(bits, rows, count, seed):
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (rows, count), dtype=np.uint8)
    np.testing.assert_array_equal(unpack(pack(codes, bits), bits, count), codes)


def test_the_first_code_is_in_the_low_bits():
    assert pack(np.array([1, 2, 3], np.uint8), 4).tolist() == [0x21, 0x03]
    assert pack(np.array([0, 1, 2, 3, 1], np.uint8), 2).tolist() == [0b11_10_01_00, 0b01]


@given(blocks_of())
def test_packed_blocks_hold_what_was_packed(case):
    codes, scales, zero_points, blocks = case
    np.testing.assert_array_equal(unpack_codes(blocks), codes)
    np.testing.assert_array_equal(blocks.scales, scales)
    middle = 1 << (blocks.bits - 1)
    np.testing.assert_array_equal(unpack_zero_points(blocks), middle if zero_points is None else zero_points)
    assert blocks.symmetric == (zero_points is None)


@given(blocks_of())
def test_going_to_k_major_and_back_changes_nothing(case):
    *_, blocks = case
    back = from_k_major(to_k_major(blocks))
    np.testing.assert_array_equal(back.codes, blocks.codes)
    np.testing.assert_array_equal(back.scales, blocks.scales)
    assert back.symmetric == blocks.symmetric
    np.testing.assert_array_equal(unpack_zero_points(back), unpack_zero_points(blocks))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("with_zero_points", [False, True])
def test_other_tools_k_major_blocks_mean_the_same_after_the_change(rng, signed, with_zero_points):
    k, n, offset = 40, 6, 8 if signed else 0
    codes, zeros = rng.integers(0, 16, (k, n)).astype(int), rng.integers(0, 16, (2, n)).astype(int)
    scales = rng.uniform(1, 2, (2, n)).astype(np.float32)
    stored = KMajorBlocks(
        codes=pack(((codes - offset) & 15).astype(np.uint8).reshape(-1), 4),
        scales=scales,
        zero_points=pack(((zeros - offset) & 15).astype(np.uint8).reshape(-1), 4) if with_zero_points else None,
        signed=signed, bits=4, block_size=32, in_features=k, out_features=n,
    )  # fmt: skip
    meant = codes - (np.repeat(zeros, 32, axis=0)[:k] if with_zero_points else offset)
    expected = meant.astype(np.float32) * np.repeat(scales, 32, axis=0)[:k]
    np.testing.assert_array_equal(dequantize_blocks(from_k_major(stored)), expected)


def test_arrays_that_do_not_fit_each_other_are_refused():
    with pytest.raises(OptionError, match=r"scales .* \(3, 2\)"):
        pack_blocks(np.zeros((3, 64), np.uint8), np.ones((3, 1), np.float32), None, bits=4, block_size=32)


# --- ONNX Runtime reads them as they are meant


def matmul_nbits(blocks: QuantizedBlocks, x, accuracy_level):
    node = helper.make_node(
        "MatMulNBits", ["x", "b", "s"] + ([] if blocks.symmetric else ["z"]), ["y"], domain="com.microsoft",
        K=blocks.in_features, N=blocks.out_features, bits=blocks.bits, block_size=blocks.block_size,
        accuracy_level=accuracy_level,
    )  # fmt: skip
    constants = [tensor("b", blocks.codes), tensor("s", blocks.scales)]
    constants += [] if blocks.symmetric else [tensor("z", blocks.zero_points)]
    return run_op(node, {"x": x}, constants)


CASES = [
    pytest.param(bits, size, symmetric, k, id=f"{bits}bit-{size}-{'sym' if symmetric else 'asym'}-K{k}")
    for bits in (2, 4, 8)
    for size in (16, 32, 128)
    for symmetric in (False, True)
    for k in (128, 144)
]


@pytest.mark.parametrize(("bits", "size", "symmetric", "k"), CASES)
@pytest.mark.parametrize(("accuracy_level", "decibels"), [(0, 100), (4, 40)])
def test_matmul_nbits_computes_with_the_weights_that_we_mean(rng, bits, size, symmetric, k, accuracy_level, decibels):
    weight, x = rng.normal(0.1, 1, (k, 48)).astype(np.float32), rng.normal(size=(5, k)).astype(np.float32)
    blocks = round_blocks(weight, BlockSpec(bits=bits, block_size=size, symmetric=symmetric))
    expected = x.astype(np.float64) @ dequantize_blocks(blocks)
    actual = matmul_nbits(blocks, x, accuracy_level)
    assert 10 * np.log10(np.square(expected).sum() / np.square(actual - expected).sum()) > decibels


@pytest.mark.parametrize(("bits", "size", "symmetric", "k"), [case for case in CASES if case.values[0] != 2])
def test_dequantize_linear_computes_the_weights_that_we_mean(rng, bits, size, symmetric, k):
    weight = rng.normal(0.1, 1, (k, 7)).astype(np.float32)
    blocks = round_blocks(weight, BlockSpec(bits=bits, block_size=size, symmetric=symmetric))
    k_major = to_k_major(blocks)
    kind = getattr(TensorProto, f"{'INT' if symmetric else 'UINT'}{bits}")
    groups = k_major.scales.shape[0]
    constants = [helper.make_tensor("q", kind, [k, 7], k_major.codes.tobytes(), raw=True), tensor("s", k_major.scales)]
    if k_major.zero_points is not None:
        constants.append(helper.make_tensor("z", kind, [groups, 7], k_major.zero_points.tobytes(), raw=True))
    inputs = ["q", "s"] + ([] if symmetric else ["z"])
    nodes = [
        helper.make_node("DequantizeLinear", inputs, ["w"], axis=0, block_size=size),
        helper.make_node("Mul", ["w", "x"], ["y"]),
    ]
    actual = run_op(nodes, {"x": np.ones(1, np.float32)}, constants)
    np.testing.assert_array_equal(actual, dequantize_blocks(blocks))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("width", [64, 48])
def test_gather_reads_the_same_packed_table(rng, bits, symmetric, width):
    table, rows = rng.normal(0.1, 1, (30, width)).astype(np.float32), np.array([[3, 0], [29, 3]], np.int64)
    blocks = round_blocks(table.T, BlockSpec(bits=bits, block_size=32, symmetric=symmetric))
    node = helper.make_node(
        "GatherBlockQuantized", ["q", "x", "s"] + ([] if symmetric else ["z"]), ["y"], domain="com.microsoft",
        gather_axis=0, quantize_axis=1, block_size=32, bits=bits,
    )  # fmt: skip
    codes = blocks.codes.reshape(blocks.out_features, -1)[:, : packed_bytes(width, bits)]  # without the last padding
    constants = [tensor("q", codes), tensor("s", blocks.scales)]
    constants += [] if symmetric else [tensor("z", blocks.zero_points)]
    actual = run_op(node, {"x": rows}, constants)
    np.testing.assert_array_equal(actual, dequantize_blocks(blocks).T[rows])


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_slice_of_channels_means_those_columns(symmetric: bool) -> None:
    weight = np.random.default_rng(3).standard_normal((40, 9)).astype(np.float32)
    blocks = round_blocks(weight, BlockSpec(bits=4, block_size=16, symmetric=symmetric))
    part = slice_channels(blocks, 5, 12)
    assert part.out_features == 4
    np.testing.assert_array_equal(dequantize_blocks(part), dequantize_blocks(blocks)[:, 5:])
