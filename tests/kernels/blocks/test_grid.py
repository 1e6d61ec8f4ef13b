import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vqonnx.core.blocks import BlockSpec
from vqonnx.errors import OptionError, QuantRangeError
from vqonnx.kernels.blocks.grid import (
    checked_energy,
    checked_weight,
    min_max_grid,
    nearest_values,
    packed,
    round_to_grid,
)
from vqonnx.kernels.blocks.packing import dequantize_blocks, unpack_codes
from vqonnx.kernels.blocks.rounding import round_blocks

SPECS = st.builds(
    BlockSpec, bits=st.sampled_from([2, 4, 8]), block_size=st.sampled_from([16, 32, -1]), symmetric=st.booleans()
)
WEIGHTS = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 70), st.integers(1, 5)), elements=st.floats(-(2.0**100), 2.0**100, width=32)
)


@given(WEIGHTS, SPECS)
def test_the_grid_and_the_values_are_those_of_round_to_nearest(weight, spec):
    grid, rounded = min_max_grid(weight, spec), round_blocks(weight, spec)
    on_grid = round_to_grid(weight, grid, spec)
    for name in ("codes", "scales", "zero_points"):
        np.testing.assert_array_equal(getattr(on_grid, name), getattr(rounded, name), err_msg=name)
    np.testing.assert_array_equal(nearest_values(weight, grid, spec), dequantize_blocks(rounded))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_scales_are_rounded_as_stored(rng, dtype):
    weight = rng.normal(size=(40, 3)).astype(dtype)
    grid = min_max_grid(checked_weight(weight), BlockSpec()).rounded(dtype)
    blocks = packed(unpack_codes(round_to_grid(weight, grid, BlockSpec())).T, grid, BlockSpec(), dtype)
    np.testing.assert_array_equal(blocks.scales.astype(np.float32), grid.scales.T)
    assert np.abs(dequantize_blocks(blocks).astype(np.float64) - weight.astype(np.float64)).max() < 0.3


def test_float16_scales_never_vanish_or_overflow():
    grid = min_max_grid(np.array([[1e-12, -1e8]], np.float32), BlockSpec(symmetric=True)).rounded(np.float16)
    assert np.isfinite(grid.scales.astype(np.float16)).all()
    assert grid.scales.astype(np.float16).all()


def test_energy_is_relative_and_never_0():
    energy = checked_energy([0.0, 2.0, 4.0], 3)
    assert energy[2] == 2 * energy[1]
    assert 0 < energy[0] < 1e-5
    assert (checked_energy(np.zeros(3), 3) == 1).all()
    with pytest.raises(OptionError, match="3 finite numbers"):
        checked_energy([1.0, -1.0, 0.0], 3)


def test_bad_weights_are_named():
    with pytest.raises(QuantRangeError, match="two axes"):
        checked_weight(np.zeros(3, np.float32))
    with pytest.raises(QuantRangeError, match="NaN or infinite"):
        checked_weight(np.full((2, 2), np.inf, np.float32))
