import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vqonnx.calibration.statistics.base import STATISTICS, Unordered
from vqonnx.calibration.statistics.histogram import Histogram
from vqonnx.calibration.statistics.min_max import MinMax
from vqonnx.calibration.statistics.moving_average import MovingAverage
from vqonnx.calibration.statistics.profile import Profile
from vqonnx.calibration.survey import Span, Surveyor

TENSORS = hnp.arrays(
    st.sampled_from([np.float16, np.float32]),
    st.integers(0, 12),
    elements=st.floats(width=16, allow_nan=True, allow_infinity=True),
)
SCALED = st.tuples(TENSORS, st.integers(-60, 60)).map(lambda pair: np.ldexp(pair[0].astype(np.float32), pair[1]))
TASKS = st.lists(st.lists(TENSORS | SCALED, max_size=4), max_size=4)
EMPTY = [MinMax(), MovingAverage(rate=0.3), Histogram(), Histogram(bins=16), Histogram(bins=2), Profile(bins=64)]


def surveyed(statistics, tensors):
    surveyor = Surveyor({str(k): statistic.span() for k, statistic in enumerate(statistics)})
    for x in tensors:
        surveyor.add({str(k): x for k in range(len(statistics))})
    return list(surveyor.surveys().values())


def assert_same(left, right):
    for (name, a), (other, b) in zip(left.arrays().items(), right.arrays().items(), strict=True):
        assert name == other
        np.testing.assert_array_equal(a, b, err_msg=name)


def test_every_unordered_statistic_is_tried():
    assert {type(empty) for empty in EMPTY} == {kind for kind in STATISTICS.values() if issubclass(kind, Unordered)}


@given(tasks=TASKS, late=st.booleans())
def test_surveys_give_what_samples_one_by_one_give(tasks, late):
    expected = list(EMPTY)
    found = list(EMPTY)
    for tensors in tasks:
        for x in tensors:
            expected = [known.merge(empty.of(x)) for known, empty in zip(expected, EMPTY, strict=True)]
        # A survey may have been asked for before its predecessors were folded in.
        surveys = surveyed(EMPTY if late else found, tensors)
        found = [known.after(survey) for known, survey in zip(found, surveys, strict=True)]
    for left, right in zip(found, expected, strict=True):
        assert_same(left, right)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_row_follows_ends_that_grow_by_turns(sign):
    tensors = [np.array([sign * 1.5**k * (-1) ** k, 0.1], np.float32) for k in range(40)]
    expected = Histogram(bins=32)
    for x in tensors:
        expected = expected.merge(expected.of(x))
    (survey,) = surveyed([Histogram(bins=32)], tensors)
    assert_same(Histogram(bins=32).after(survey), expected)


def test_any_strides_and_types_are_measured():
    x = np.arange(24, dtype=np.float64).reshape(2, 3, 4)[:, ::2, ::-1]
    surveyor = Surveyor({"x": Span()})
    surveyor.add({"x": x})
    surveyor.add({"x": np.full((), 1e300)})
    (survey,) = surveyor.surveys().values()
    assert (survey.low, survey.high, survey.sizes, survey.lost) == (0.0, 23.0, [16, 1], [0, 1])


def test_no_tensors_are_no_surveys():
    surveyor = Surveyor({})
    surveyor.add({"x": np.ones(3)})
    assert surveyor.surveys() == {}
