import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vqonnx.compat.neural_compressor.onnxrt import pad_tensor, qdq_tensor, quant_tensor

ROWS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2).map(lambda s: (s[0], 16 * s[1])),
                  elements=st.floats(-100, 100, width=32))  # fmt: skip


@pytest.mark.parametrize(("group_size", "rows"), [(-1, 5), (4, 8), (5, 5), (32, 32)])
def test_rows_of_zeros_fill_the_last_group(group_size, rows):
    weight = np.arange(15, dtype=np.float32).reshape(5, 3)
    padded = pad_tensor(weight, group_size, (5 - 1) // group_size + 1)
    assert padded.shape == (rows, 3)
    np.testing.assert_array_equal(padded[:5], weight)
    assert not padded[5:].any()
    assert padded.dtype == weight.dtype


def test_asymmetric_codes_by_hand():
    codes, scale, zero_point = quant_tensor([[-1.0, 0.0, 0.5, 2.0]], 4, 4, "asym", "uint")
    assert scale.tolist() == [[3 / 15]]
    assert zero_point.tolist() == [[5]]
    assert zero_point.dtype == np.uint8
    assert codes.tolist() == [[0, 5, 8, 15]]  # 0.5 / 0.2 + 5 = 7.5 rounds to even after the zero point is added


def test_zero_is_not_forced_into_the_range_and_signed_zero_points_are_not_clipped():
    codes, scale, zero_point = quant_tensor([[10.0, 11.0, 12.0, 13.0]], 2, 4, "asym", "int")
    assert (scale.tolist(), zero_point.tolist(), codes.tolist()) == ([[1.0]], [[-10.0]], [[0, 1, 2, 3]])
    assert quant_tensor([[10.0, 11.0, 12.0, 13.0]], 2, 4, "asym", "uint")[2].tolist() == [[0]]


@pytest.mark.parametrize(("dtype", "zero_point", "ends"), [("int", 0, (-8, 7)), ("uint", 8, (0, 15))])
def test_the_symmetric_scale_is_amax_by_seven_and_a_half(dtype, zero_point, ends):
    codes, scale, zero = quant_tensor([[-3.0, 0.0, 1.0, 3.0]], 4, 4, "sym", dtype)
    assert scale.item() == pytest.approx(3 / 7.5)
    assert zero.tolist() == [[zero_point]]
    assert (codes[0, 0], codes[0, -1]) == ends
    assert qdq_tensor([[-3.0, 0.0, 1.0, 3.0]], 4, 4, "sym", dtype)[0] == pytest.approx([-3.2, 0, 0.8, 2.8])


def test_one_signed_bit_has_the_codes_minus_one_and_zero():
    codes, scale, _ = quant_tensor([[-1.0, -3.0, 3.0, 1.0]], 1, 4, "sym", "int", 0.5)
    assert (codes.tolist(), scale.item()) == ([[0, -1, 0, 0]], 3.0)


def test_the_ratio_shrinks_the_range():
    _, scale, _ = quant_tensor([[-1.0, 1.0]], 4, 2, "asym", "int", 0.5)
    assert scale.tolist() == [[1 / 15]]


@given(ROWS, st.integers(2, 8), st.sampled_from(["sym", "asym"]), st.sampled_from(["int", "uint"]))
def test_rows_become_groups_with_codes_of_the_type(data, bits, scheme, dtype):
    codes, scale, zero_point = quant_tensor(data, bits, 16, scheme, dtype)
    groups = data.size // 16
    assert codes.shape == (groups, 16)
    assert scale.shape == zero_point.shape == (groups, 1)
    assert (scale > 0).all()
    signed = scheme == "sym" and dtype == "int"
    assert codes.min() >= (-(1 << (bits - 1)) if signed else 0)
    assert codes.max() <= ((1 << (bits - 1)) - 1 if signed else (1 << bits) - 1)
    np.testing.assert_array_equal(
        qdq_tensor(data, bits, 16, scheme, dtype), (scale * (codes - zero_point)).reshape(data.shape)
    )


@given(ROWS, st.integers(2, 8))
def test_asymmetric_dequantized_values_are_within_a_step(data, bits):
    _, scale, _ = quant_tensor(data, bits, 16, "asym", "int")
    error = np.abs(qdq_tensor(data, bits, 16, "asym", "int") - data)
    assert (error.reshape(-1, 16) <= scale * (1 + 1e-6) + 1e-4).all()


def test_a_group_of_minus_one_is_a_row(rng):
    data = rng.normal(size=(3, 48)).astype(np.float32)
    np.testing.assert_array_equal(quant_tensor(data, group_size=-1)[0], quant_tensor(data, group_size=48)[0])


def test_a_group_of_one_value_has_the_scale_one():
    assert quant_tensor([[0.0, 0.0]], 4, 2)[1].tolist() == [[1.0]]
    assert quant_tensor([[0.0, 0.0]], 4, 2, "sym")[1].tolist() == [[1.0]]


@pytest.mark.peer
@pytest.mark.parametrize("scheme", ["sym", "asym"])
@pytest.mark.parametrize("dtype", ["int", "uint"])
@pytest.mark.parametrize("array_type", [np.float32, np.float16, np.float64])
def test_results_are_the_peers_to_the_last_bit(rng, scheme, dtype, array_type):
    peer = pytest.importorskip("onnxruntime.quantization.neural_compressor.weight_only")
    data = rng.normal(0, 3, (40, 128)).astype(array_type)
    data[:3] = [[1], [-2], [0]]
    for bits, size, ratio in ((4, 32, 1.0), (8, 16, 1.0), (3, 128, 0.9), (1, 64, 1.0), (2, 4, 0.7)):
        ours, theirs = (one(data, bits, size, scheme, dtype, ratio) for one in (quant_tensor, peer.quant_tensor))
        for mine, its in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(mine, its)
        np.testing.assert_array_equal(
            qdq_tensor(data, bits, size, scheme, dtype, ratio), peer.qdq_tensor(data, bits, size, scheme, dtype, ratio)
        )
