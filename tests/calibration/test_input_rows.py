import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqonnx.calibration.statistics import empty_statistic
from vqonnx.calibration.statistics.input_rows import InputRows
from vqonnx.core.qtype import INT8
from vqonnx.core.spec import QuantSpec, RangeMethod
from vqonnx.errors import OptionError, SampleError
from vqonnx.kernels.patches import Window, patches
from vqonnx.kernels.ranges import RangeOptions

WINDOW = Window(shape=(2, 3), strides=(1, 2), dilations=(2, 1), begins=(0, 1), ends=(1, 0))
SAMPLES = st.lists(st.integers(0, 2**16).map(lambda s: np.random.default_rng(s).normal(size=(2, 3, 5, 6))), max_size=4)


def fold(samples, empty):
    total = empty
    for sample in samples:
        total = total.merge(empty.of(sample))
    return total


def same(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one.arrays().values(), other.arrays().values(), strict=True))


@given(SAMPLES, SAMPLES, SAMPLES)
def test_merging_is_exact_and_associative_with_a_neutral_element(a, b, c):
    empty = InputRows.of_window(WINDOW, 7)
    x, y, z = (fold(part, empty) for part in (a, b, c))
    assert same(x.merge(y).merge(z), x.merge(y.merge(z)))
    assert same(fold(a + b, empty), x.merge(y))
    assert same(x.merge(empty), x)
    assert same(empty.merge(x), x)
    assert same(InputRows.from_arrays(x.arrays()), x)


def test_rows_are_windows_of_the_sample(rng):
    x = rng.normal(size=(2, 3, 5, 6)).astype(np.float32)
    every = patches(x, WINDOW).reshape(-1, 3 * 6)
    all_rows = InputRows.of_window(WINDOW, 1000).of(x)
    np.testing.assert_array_equal(all_rows.rows, every)
    some = InputRows.of_window(WINDOW, 9).of(x).rows
    assert len(some) <= 9
    places = [next(i for i, row in enumerate(every) if np.array_equal(row, one)) for one in some]
    assert places == sorted(set(places))
    assert max(places) - min(places) > len(every) / 2


def test_without_a_window_vectors_are_rows(rng):
    x = rng.normal(size=(4, 5, 6)).astype(np.float16)
    found = InputRows.of_window(None, 100).of(x).rows
    np.testing.assert_array_equal(found, x.reshape(-1, 6).astype(np.float32))
    assert InputRows.of_window(None, 8).of(x).rows.shape == (8, 6)


def test_rows_that_are_not_finite_are_left_out_and_counted():
    x = np.ones((3, 2), np.float32)
    x[1] = np.nan, np.inf
    found = InputRows().of(x)
    assert found.rows.shape == (2, 2)
    assert found.dropped == 2


def test_other_shapes_are_refused():
    with pytest.raises(SampleError, match="has no windows of 2 axes"):
        InputRows.of_window(WINDOW, 3).of(np.ones((2, 3, 4)))
    with pytest.raises(SampleError, match="rows have 2 elements in one sample and 3 in another"):
        InputRows().of(np.ones((1, 2))).merge(InputRows().of(np.ones((1, 3))))
    with pytest.raises(OptionError, match="'input-rows' serves no range method"):
        empty_statistic("input-rows").range(RangeMethod.MIN_MAX, QuantSpec(qtype=INT8), RangeOptions())
