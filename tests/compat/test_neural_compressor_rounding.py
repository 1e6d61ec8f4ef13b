"""Rounding whole weights as Neural Compressor does: against its own array functions, which are tested elsewhere."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vqonnx.compat.neural_compressor import rounding as module
from vqonnx.compat.neural_compressor.onnxrt import pad_tensor, qdq_tensor, quant_tensor
from vqonnx.compat.neural_compressor.rounding import Rounding, pack_groups, round_groups
from vqonnx.errors import OptionError, QuantRangeError
from vqonnx.kernels.blocks.packing import dequantize_blocks, unpack_codes, unpack_zero_points

WEIGHTS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 70), st.integers(1, 5)),
    elements=st.floats(-100, 100, width=32).filter(lambda value: value == 0 or abs(value) > 1e-3),
)
BITS, SIZES = st.sampled_from([2, 4, 8]), st.sampled_from([1, 3, 16, 32, 200, -1])


def groups_of(weight, size):
    """[N, J * size] of a weight [K, N]."""
    size = len(weight) if size == -1 else size
    return pad_tensor(weight, size, -(-len(weight) // size)).T, size


@given(WEIGHTS, BITS, SIZES, st.booleans(), st.sampled_from([1.0, 0.75]))
def test_packed_groups_that_reach_zero_are_those_of_quant_tensor(weight, bits, size, symmetric, ratio):
    weight[0] = np.where(weight[0] > 0, -weight[0], weight[0])
    data, size = groups_of(weight, size)
    data = np.concatenate([data.reshape(-1, size), np.zeros((data.size // size, 1), np.float32)], axis=1)
    scheme = "sym" if symmetric else "asym"
    codes, scales, zero_points = quant_tensor(data, bits, size + 1, scheme, "uint", ratio)
    packed = pack_groups(weight, Rounding(bits=bits, group_size=size, symmetric=symmetric, ratio=ratio))
    k, n = weight.shape
    np.testing.assert_array_equal(unpack_codes(packed), codes[:, :-1].reshape(n, -1)[:, :k])
    np.testing.assert_array_equal(packed.scales, scales.reshape(n, -1).astype(np.float32))
    np.testing.assert_array_equal(unpack_zero_points(packed), zero_points.reshape(n, -1))
    assert packed.symmetric == symmetric


@given(WEIGHTS, st.integers(1, 8), SIZES, st.booleans())
def test_rounded_groups_are_those_of_qdq_tensor(weight, bits, size, symmetric):
    data, width = groups_of(weight, size)
    reals = qdq_tensor(data, bits, width, "sym" if symmetric else "asym", "int")
    rounded = round_groups(weight, Rounding(bits=bits, group_size=size, symmetric=symmetric))
    np.testing.assert_array_equal(rounded, reals[:, : len(weight)].T.astype(np.float32))


@given(WEIGHTS, BITS, SIZES)
def test_no_asymmetric_group_is_clipped(weight, bits, size):
    weight = np.abs(weight) + 10
    packed = pack_groups(weight, Rounding(bits=bits, group_size=size))
    steps = np.repeat(packed.scales, packed.block_size, axis=1)[:, : len(weight)].T
    assert (np.abs(dequantize_blocks(packed) - weight) <= steps * 0.501).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_result_does_not_depend_on_how_columns_are_cut(rng, monkeypatch, dtype):
    weight, how = rng.normal(size=(70, 33)).astype(dtype), Rounding(group_size=32)
    whole, floats = pack_groups(weight, how), round_groups(weight, how)
    monkeypatch.setattr(module, "_ELEMENTS", 150)
    cut = pack_groups(weight, how)
    np.testing.assert_array_equal(cut.codes, whole.codes)
    np.testing.assert_array_equal(cut.scales, whole.scales)
    np.testing.assert_array_equal(cut.zero_points, whole.zero_points)
    np.testing.assert_array_equal(round_groups(weight, how), floats)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_rounded_as_single_precision(rng, dtype):
    weight = rng.normal(size=(48, 5)).astype(dtype)
    half, single = (pack_groups(one, Rounding(group_size=16)) for one in (weight, weight.astype(np.float32)))
    np.testing.assert_array_equal(half.codes, single.codes)
    np.testing.assert_array_equal(half.scales, single.scales.astype(dtype))
    assert round_groups(weight, Rounding(bits=3)).dtype == dtype


def test_a_tiny_scale_does_not_vanish_in_half_precision():
    packed = pack_groups(np.full((16, 1), 6e-8, np.float16), Rounding(group_size=16))
    assert packed.scales.item() == np.finfo(np.float16).tiny


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("function", [pack_groups, round_groups])
def test_weights_that_are_not_finite_are_refused(bad, function):
    with pytest.raises(QuantRangeError, match="NaN or infinite"):
        function(np.array([[1.0], [bad]], np.float32), Rounding())


@pytest.mark.parametrize(
    ("given_values", "named"),
    [
        ({"bits": 0}, "bits must lie in 1..8, got 0"),
        ({"bits": 9}, "bits must lie in 1..8, got 9"),
        ({"group_size": 0}, "group_size must be at least 1, or -1 for all, got 0"),
        ({"group_size": -2}, "got -2"),
        ({"ratio": 0.0}, r"a ratio is a share and must lie in \(0, 1\], got 0.0"),
        ({"ratio": 1.5}, "got 1.5"),
    ],
)
def test_values_out_of_range_are_refused(given_values, named):
    with pytest.raises(OptionError, match=named):
        Rounding(**given_values)


def test_odd_bits_are_not_packed():
    with pytest.raises(OptionError, match=r"only codes of \(2, 4, 8\) bits are packed, not of 3"):
        pack_groups(np.ones((4, 1), np.float32), Rounding(bits=3))
