import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqonnx.core.qtype import FLOAT8E4M3FN, INT8, INT16, QTYPES, UINT4, UINT8
from vqonnx.core.spec import QuantSpec, RangeMethod, ScaleGrid
from vqonnx.errors import OptionError
from vqonnx.kernels import entropy, histogram
from vqonnx.kernels.affine import affine_params, dequantize, quantize
from vqonnx.kernels.bins import Bins, clipped, folded
from vqonnx.kernels.ranges import HISTOGRAM_METHODS, RangeOptions, choose_range, distribution_range

U8 = QuantSpec(qtype=UINT8)
S8 = QuantSpec(qtype=INT8, symmetric=True)


def bins_of(x, bins=2048):
    x = np.asarray(x, np.float32)
    low, high, _ = histogram.min_max(x)
    exponent = histogram.bin_exponent(min(low, 0), max(high, 0), bins)
    first, last = histogram.bin_range(low, high, exponent)
    counts = np.zeros(last - first + 1, np.int64)
    histogram.count_bins(x, exponent, first, counts)
    return Bins(counts, first, exponent, low, high)


def data(kind):
    rng = np.random.default_rng(7)
    normal = rng.normal(size=50_000)
    return {
        "normal": normal,
        "relu": np.maximum(normal, 0),
        "skewed": np.where(normal < 0, normal / 20, normal * 2),
        "outliers": np.concatenate([normal, [40.0, -60.0]]),
        "negative": -np.abs(normal) - 1,
        "far": rng.uniform(5, 6, 1000),
        "constant": np.full(10, 3.0),
        "zero": np.zeros(10),
        "tiny": np.full(5, 1e-44),
    }[kind].astype(np.float32)


KINDS = ["normal", "relu", "skewed", "outliers", "negative", "far", "constant", "zero", "tiny"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", HISTOGRAM_METHODS)
@pytest.mark.parametrize("spec", [U8, S8])
def test_a_range_holds_zero_stays_within_the_data_and_is_centred_when_symmetric(kind, method, spec):
    x = data(kind)
    low, high = choose_range(method, bins_of(x), spec, RangeOptions())
    assert low <= 0 <= high
    if spec.symmetric:
        assert low == -high
        assert high <= np.abs(x).max()
    else:
        assert low >= min(x.min(), 0)
        assert high <= max(x.max(), 0)


@pytest.mark.parametrize("method", HISTOGRAM_METHODS)
def test_an_empty_histogram_has_the_range_zero(method):
    empty = Bins(np.zeros(0, np.int64), 0, -126, math.inf, -math.inf)
    assert choose_range(method, empty, U8, RangeOptions()) == (0.0, 0.0)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=200), st.floats(60, 100), st.booleans())
def test_a_percentile_range_keeps_its_share_to_within_a_bin(values, percentile, symmetric):
    x = np.array(values, np.float32)
    bins = bins_of(x)
    spec = S8 if symmetric else U8
    low, high = choose_range(RangeMethod.PERCENTILE, bins, spec, RangeOptions(percentile=percentile))
    kept = np.mean((x >= low - bins.width) & (x <= high + bins.width))
    assert kept * 100 >= percentile - 1e-6


def test_a_percentile_of_100_is_the_observed_range():
    x = data("outliers")
    assert choose_range(RangeMethod.PERCENTILE, bins_of(x), U8, RangeOptions(percentile=100)) == (-60, 40)


def test_a_percentile_cuts_each_end_of_a_two_sided_tensor():
    x = np.linspace(-1, 1, 10_001)
    low, high = choose_range(RangeMethod.PERCENTILE, bins_of(x), U8, RangeOptions(percentile=90))
    assert low == pytest.approx(-0.9, abs=2e-3)
    assert high == pytest.approx(0.9, abs=2e-3)


def quantization_error(x, low, high, spec):
    step = (high - low) / (spec.qmax - spec.qmin)
    zero = np.rint(spec.qmin - low / step)
    codes = np.clip(np.rint(x / step) + zero, spec.qmin, spec.qmax)
    return np.square((codes - zero) * step - x).mean()


@pytest.mark.parametrize("kind", ["normal", "relu", "skewed", "outliers"])
@pytest.mark.parametrize("spec", [U8, S8, QuantSpec(qtype=UINT4)])
def test_the_mse_range_is_as_good_on_the_data_as_a_dense_search(kind, spec):
    x = data(kind)
    low, high = choose_range(RangeMethod.MIN_MAX, bins_of(x), spec, RangeOptions())
    shares = np.geomspace(0.02, 1, 40)
    pairs = zip(shares, shares, strict=True) if spec.symmetric or low == 0 else itertools.product(shares, shares)
    best = min(quantization_error(x, low * a, high * b, spec) for a, b in pairs)
    chosen = choose_range(RangeMethod.MSE, bins_of(x), spec, RangeOptions())
    assert quantization_error(x, *chosen, spec) <= 1.03 * best


def squared_error_oracle(bins, low, high, steps):
    """The expected error by integrating every bin's even spread numerically."""
    edges = np.clip((bins.offset + np.arange(bins.counts.size + 1)) * bins.width, bins.low, bins.high)
    where = (np.arange(400) + 0.5) / 400
    t = edges[:-1, None] + np.diff(edges)[:, None] * where
    weight = bins.counts[:, None] / where.size
    step = (high - low) / steps
    noise = np.where(np.abs(t) <= step / 2, t * t, step * step / 12)
    errors = np.where(t < low, (t - low) ** 2, np.where(t > high, (t - high) ** 2, noise))
    return float((weight * errors).sum())


@pytest.mark.parametrize("kind", ["normal", "relu", "skewed"])
def test_the_mse_range_has_the_least_expected_error_of_all_near_and_far(kind):
    bins = bins_of(data(kind)[:2000], 64)
    low, high = choose_range(RangeMethod.MSE, bins, U8, RangeOptions())
    chosen = squared_error_oracle(bins, low, high, 255)
    for a, b in itertools.product([0.5, 0.8, 0.95, 0.99, 1, 1.01, 1.05, 1.2], repeat=2):
        other = max(low * a, min(bins.low, 0)), min(high * b, bins.high)
        assert chosen <= squared_error_oracle(bins, *other, 255) * 1.001


def entropy_oracle(counts, zero, codes, first, last):
    """Sum of P log(P / Q), bin by bin, as the definition says."""
    total = counts.sum()
    p = counts[first : last + 1].astype(np.float64)
    q = np.zeros_like(p)
    cells = [first + cell * (last - first + 1) // codes for cell in range(codes + 1)]
    for start, end in itertools.pairwise(cells):
        members = [b for b in range(start, end) if counts[b] and b != zero]
        for b in members:
            q[b - first] = counts[members].sum() / len(members)
    if first <= zero <= last:
        q[zero - first] = counts[zero]
    p[0] += counts[:first].sum()
    p[-1] += counts[last + 1 :].sum()
    if np.any((p > 0) & (q == 0)) or last - first + 1 < codes:
        return math.inf
    filled = p > 0
    return float((p[filled] / total * np.log(p[filled] / q[filled])).sum())


@given(st.integers(0, 2**32 - 1))
def test_relative_entropies_equal_their_definition(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, 40) * rng.integers(0, 50, 40)
    zero = int(rng.integers(5, 35))
    firsts, lasts = rng.integers(0, zero, 20), rng.integers(zero + 1, 40, 20)
    if not counts.sum():
        return
    found = entropy.relative_entropies(counts, zero, 8, firsts, lasts)
    expected = [entropy_oracle(counts, zero, 8, int(a), int(b)) for a, b in zip(firsts, lasts, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_the_entropy_range_of_a_one_sided_histogram_is_the_best_of_all():
    bins = bins_of(np.maximum(np.random.default_rng(1).standard_t(4, 3000), 0), 128)
    spec = QuantSpec(qtype=UINT4)
    low, high = choose_range(RangeMethod.ENTROPY, bins, spec, RangeOptions())
    candidates = [entropy_oracle(bins.counts, 0, 16, 0, last) for last in range(1, bins.counts.size)]
    best = 1 + int(np.argmin(candidates))
    assert (low, high) == (0.0, min((best + 1) * bins.width, bins.high))


def test_entropy_clips_rare_outliers_but_not_a_bulk_far_from_zero():
    low, high = choose_range(RangeMethod.ENTROPY, bins_of(data("outliers")), S8, RangeOptions())
    assert high < 60
    low, high = choose_range(RangeMethod.ENTROPY, bins_of(data("far")), U8, RangeOptions())
    assert (low, high) == (0.0, pytest.approx(6, abs=0.01))


def test_a_type_with_more_codes_than_bins_keeps_the_observed_range():
    x = data("outliers")
    assert choose_range(RangeMethod.ENTROPY, bins_of(x), QuantSpec(qtype=INT16), RangeOptions()) == (-60, 40)


def test_the_layerwise_percentile_is_the_one_of_the_least_error():
    x = data("outliers")
    for spec, squared in itertools.product([U8, S8, QuantSpec(qtype=UINT4)], [False, True]):
        candidates = (99.0, 99.9, 99.99, 100.0)
        options = RangeOptions(percentiles=candidates, squared=squared)
        chosen = choose_range(RangeMethod.LAYERWISE_PERCENTILE, bins_of(x), spec, options)
        ranges = [
            choose_range(RangeMethod.PERCENTILE, bins_of(x), spec, RangeOptions(percentile=one)) for one in candidates
        ]
        errors = []
        for low, high in ranges:
            params = affine_params(low, high, spec)
            errors.append((np.abs(dequantize(quantize(x, params), params) - x) ** (2 if squared else 1)).sum())
        assert errors[ranges.index(chosen)] <= min(errors) * 1.02


def test_equal_errors_keep_the_widest_percentile():
    options = RangeOptions(percentiles=(99, 100, 90))
    x = np.zeros(100, np.float32)
    assert choose_range(RangeMethod.LAYERWISE_PERCENTILE, bins_of(x), U8, options) == (0, 0)
    steps = np.repeat(np.arange(256, dtype=np.float32), 100)
    assert choose_range(RangeMethod.LAYERWISE_PERCENTILE, bins_of(steps), U8, options) == (0, 255)


@pytest.mark.parametrize("grid", [ScaleGrid.FREE, ScaleGrid.POWER_OF_TWO])
def test_a_percentile_before_the_squared_error_leaves_outliers_out(grid):
    x = np.concatenate([data("normal"), np.full(4, 3e4, np.float32)])
    spec = QuantSpec(qtype=UINT8, grid=grid)
    _, whole = choose_range(RangeMethod.MSE, bins_of(x), spec, RangeOptions())
    _, without = choose_range(RangeMethod.PERCENTILE_MSE, bins_of(x), spec, RangeOptions(percentile=99.9))
    assert without < whole


def test_clipping_a_histogram_moves_the_rest_to_its_ends():
    bins = bins_of(np.array([-4.0, -1.0, 0.5, 2.0, 6.0, 7.0]), 16)
    inner = clipped(bins, (-2.0, 5.0))
    assert (inner.low, inner.high, inner.counts.sum()) == (-2.0, 5.0, 6)
    assert inner.offset * inner.width <= -2 < (inner.offset + 1) * inner.width
    assert (inner.counts[0], inner.counts[-1]) == (1, 2)
    same = clipped(bins, (-9.0, 9.0))
    assert (same.low, same.high, same.offset) == (bins.low, bins.high, bins.offset)
    np.testing.assert_array_equal(same.counts, bins.counts)


@pytest.mark.parametrize(("given", "error"), [((), "at least one"), ((99.9, 20), r"must lie in \(50, 100\], got 20")])
def test_bad_candidates_are_refused(given, error):
    with pytest.raises(OptionError, match=error) as caught:
        RangeOptions(percentiles=given)
    assert caught.value.option == "percentiles"


def test_folding_counts_magnitudes():
    magnitudes = folded(bins_of(np.array([-3.5, -1.5, 1.5, 2.5]), 8))
    assert magnitudes.counts.tolist() == [0, 2, 1, 1]
    assert (magnitudes.low, magnitudes.high) == (0.0, 3.5)
    assert (folded(bins_of(data("negative"))).low) == pytest.approx(1, abs=1e-3)


def test_the_distribution_range_matches_the_spread_of_the_codes():
    x = data("normal").astype(np.float64)
    low, high = distribution_range((x.size, x.sum(), np.square(x).sum()), QuantSpec(qtype=FLOAT8E4M3FN))
    codes = np.arange(256, dtype=np.uint8).view(FLOAT8E4M3FN.dtype).astype(np.float64)
    assert high / 448 * codes[np.isfinite(codes)].std() == pytest.approx(x.std())
    assert low == -high
    assert distribution_range((0, 0.0, 0.0), QuantSpec(qtype=FLOAT8E4M3FN)) == (0.0, 0.0)


def test_the_distribution_range_knows_floats_of_16_bits():
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float64)
    spread = np.std(numbers[np.isfinite(numbers)])
    low, high = distribution_range((10, 0.0, 40.0), QuantSpec(qtype=QTYPES["float16"]))
    assert -low == high == pytest.approx(2.0 / spread * 65504)


def test_the_distribution_range_is_refused_for_integers():
    with pytest.raises(OptionError, match="fits the codes of float types, not uint8; choose another method"):
        distribution_range((1, 1.0, 1.0), U8)


def test_a_method_without_a_histogram_is_refused():
    with pytest.raises(OptionError, match="'distribution' does not choose from a histogram; these do: minmax"):
        choose_range(RangeMethod.DISTRIBUTION, bins_of(data("normal")), U8, RangeOptions())


@pytest.mark.parametrize("percentile", [50, 100.5, 0.999, math.nan])
def test_a_percentile_out_of_range_is_refused(percentile):
    with pytest.raises(OptionError, match=r"must lie in \(50, 100\]") as caught:
        RangeOptions(percentile=percentile)
    assert caught.value.option == "percentile"
