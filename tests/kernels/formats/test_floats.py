"""Rounding to small floats against ml_dtypes, bit for bit."""

import numpy as np
import pytest

from tests.kernels.formats.formats import all_patterns, assert_same_bits, spread_out
from vqonnx.core.qtype import BFLOAT16, FLOAT8E4M3FN, FLOAT8E5M2, FLOAT16, INT8
from vqonnx.errors import OptionError
from vqonnx.kernels.formats.floats import round_to_float

TYPES = pytest.mark.parametrize("qtype", [FLOAT16, BFLOAT16, FLOAT8E4M3FN, FLOAT8E5M2], ids=lambda qtype: qtype.name)


def interesting(rng, qtype):
    """All 16-bit patterns; all numbers of the type, the middles between them, and both neighbours of these."""
    patterns = np.arange(1 << qtype.bits, dtype=f"u{qtype.bits // 8}").view(qtype.dtype)
    with np.errstate(invalid="ignore"):
        wide = patterns.astype(np.float32)
    numbers = np.unique(wide[np.isfinite(wide)]).astype(np.float64)
    with np.errstate(over="ignore"):
        middles = ((numbers[1:] + numbers[:-1]) / 2).astype(np.float32)
        beyond = np.float32(numbers[-1] + (numbers[-1] - numbers[-2]) / 2)
        middles = np.concatenate([middles, [beyond, -beyond]])
        near = [np.nextafter(middles, np.float32(-np.inf)), np.nextafter(middles, np.float32(np.inf))]
    return np.concatenate([wide, middles, *near, all_patterns(rng).reshape(-1), spread_out(rng, (5000,))])


@TYPES
def test_every_number_middle_and_pattern_rounds_like_ml_dtypes(rng, qtype):
    x = interesting(rng, qtype)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(qtype.dtype).astype(np.float32)
    assert_same_bits(round_to_float(x, qtype), expected)


@TYPES
def test_saturating_clips_before(rng, qtype):
    x = interesting(rng, qtype)
    with np.errstate(invalid="ignore"):
        expected = np.clip(x, np.float32(qtype.qmin), np.float32(qtype.qmax)).astype(qtype.dtype).astype(np.float32)
    assert_same_bits(round_to_float(x, qtype, saturate=True), expected)


@TYPES
def test_any_shape_and_memory_order(rng, qtype):
    x = rng.normal(size=(300, 10, 100)).astype(np.float32)  # more than one thread's share
    assert_same_bits(round_to_float(x, qtype), x.astype(qtype.dtype).astype(np.float32))
    assert_same_bits(round_to_float(x.T, qtype), round_to_float(x, qtype).T)
    for shape in [(), (0,), (2, 0, 3)]:
        assert round_to_float(np.zeros(shape, np.float32), qtype).shape == shape


@TYPES
def test_the_type_has_its_numbers(qtype):
    assert float(np.array(float(qtype.qmax), qtype.dtype)) == qtype.qmax
    assert round_to_float(np.float32(qtype.qmax), qtype) == np.float32(qtype.qmax)


def test_integers_are_refused():
    with pytest.raises(OptionError, match="int8 is no float type"):
        round_to_float(np.ones(3, np.float32), INT8)
