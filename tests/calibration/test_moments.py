"""Second moments are those of numpy in float64, however the rows come; samples are counted where they belong."""

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqonnx.calibration.moments import MomentSums, SampleSplit, batch_rows, finite_rows
from vqonnx.calibration.samples import Samples
from vqonnx.errors import SampleError


def samples(count: int, **arguments: int) -> Samples:
    return Samples(lambda index: {}, count, **arguments)


def rows_of(array: Any, axis: int = -1, nonfinite: Literal["error", "ignore"] = "error") -> Any:
    return finite_rows(array, 3, axis, tensor="t", sample=5, nonfinite=nonfinite)


def exactly(rows: Any) -> Any:
    rows = rows.astype(np.float64)
    return rows.T @ rows


@given(
    lengths=st.lists(st.integers(0, 900), min_size=1, max_size=12),
    features=st.sampled_from([1, 3, 17]),
    seed=st.integers(0, 2**16),
)
def test_moments_are_sums_over_all_rows(lengths: list[int], features: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [rng.normal(size=(length, features)).astype(np.float32) for length in lengths]
    sums = MomentSums(features, SampleSplit.of(samples(len(parts)), held_back=True))
    for sample, part in enumerate(parts):
        sums.add(sample, part)
    found = sums.result("t")
    empty = np.zeros((0, features))
    held = parts[7::8] or parts
    kept = [part for index, part in enumerate(parts) if index % 8 != 7 or len(parts) < 8]
    for moment, count, expected in (
        (found.calibration, found.rows, np.concatenate([empty, *kept])),
        (found.held_back, found.held_back_rows, np.concatenate([empty, *held])),
    ):
        assert count == len(expected)
        np.testing.assert_allclose(moment, exactly(expected), rtol=1e-5, atol=1e-4 * max(1, len(expected)))


def test_rows_wait_for_company() -> None:
    """Many small samples cost as few products as one large one."""
    assert batch_rows(100) == 1024
    assert batch_rows(5000) == 5000
    rows = np.random.default_rng(0).normal(size=(4096, 8)).astype(np.float32)
    split = SampleSplit.of(samples(512, hold_back_every=0), held_back=False)
    small, large = MomentSums(8, split), MomentSums(8, split)
    for sample in range(512):
        small.add(sample, rows[8 * sample : 8 * sample + 8])
    for sample in range(4):
        large.add(sample, rows[1024 * sample : 1024 * sample + 1024])
    np.testing.assert_array_equal(small.result("t").calibration, large.result("t").calibration)


@pytest.mark.parametrize("count", [1, 7, 8, 17])
def test_which_samples_go_where(count: int) -> None:
    split = SampleSplit.of(samples(count), held_back=True)
    assert split.numbers == list(range(count))
    if count < 8:
        assert split.calibration == split.held_back == set(range(count))
    else:
        assert split.held_back == set(range(7, count, 8))
        assert split.calibration == set(range(count)) - split.held_back
    assert split.sums == (1 if count < 8 else 2)
    alone = SampleSplit.of(samples(count), held_back=False)
    assert (alone.numbers, alone.sums) == (sorted(split.calibration), 1)


def test_moments_that_are_not_wanted_are_none() -> None:
    sums = MomentSums(2, SampleSplit.of(samples(9), held_back=False))
    sums.add(0, np.ones((3, 2), np.float32))
    found = sums.result("t")
    assert (found.rows, found.held_back, found.held_back_rows) == (3, None, 0)
    np.testing.assert_array_equal(found.calibration, np.full((2, 2), 3.0))


def test_moments_cannot_be_written_to() -> None:
    found = MomentSums(2, SampleSplit.of(samples(1), held_back=True)).result("t")
    assert found.held_back is found.calibration
    with pytest.raises(ValueError, match="read-only"):
        found.calibration[0, 0] = 1


def test_squares_beyond_float32_are_told() -> None:
    sums = MomentSums(2, SampleSplit.of(samples(1), held_back=True))
    with np.errstate(over="ignore"):
        sums.add(0, np.array([[1e20, 1]], np.float32))
        with pytest.raises(SampleError, match="'big' has values whose squares exceed float32") as info:
            sums.result("big")
    assert info.value.tensor == "big"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("axis", [-1, 0, 1, 2])
def test_all_axes_but_that_of_the_features_are_rows(axis: int, dtype: type) -> None:
    shape = [4, 2, 5]
    shape[axis] = 3
    array = np.random.default_rng(1).normal(size=shape).astype(dtype)
    rows = rows_of(array, axis)
    assert rows.dtype == np.float32
    expected = np.stack([array.take(feature, axis).reshape(-1) for feature in range(3)], axis=1)
    np.testing.assert_array_equal(rows, expected.astype(np.float32))


def test_one_axis_is_one_row() -> None:
    np.testing.assert_array_equal(rows_of(np.arange(3.0)), [[0, 1, 2]])


@pytest.mark.parametrize("shape", [(2, 4), (), (3, 0)])
def test_another_number_of_features_is_told(shape: tuple[int, ...]) -> None:
    with pytest.raises(SampleError, match=r"'t' has shape .* in calibration sample 5, but .* 3 features") as info:
        rows_of(np.zeros(shape))
    assert (info.value.tensor, info.value.sample) == ("t", 5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_what_is_not_finite_is_told_or_left_out(bad: float) -> None:
    array = np.ones((2, 4, 3))
    array[1, 2, 0] = bad
    with pytest.raises(SampleError, match="'t' has 1 NaN or infinite elements in calibration sample 5") as info:
        rows_of(array)
    assert (info.value.tensor, info.value.sample) == ("t", 5)
    np.testing.assert_array_equal(rows_of(array, nonfinite="ignore"), np.ones((7, 3)))
