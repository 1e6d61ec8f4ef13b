"""What a histogram tells of a quantization against quantizing its elements."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqonnx.calibration.statistics.histogram import Histogram
from vqonnx.core.params import QuantParams
from vqonnx.core.qtype import INT8, UINT8, UINT16
from vqonnx.core.spec import QuantSpec
from vqonnx.kernels.affine import affine_params, dequantize, quantize
from vqonnx.kernels.fidelity import quantization_sqnr


def brute_force(x: np.ndarray, params: QuantParams) -> float:
    """SQNR of the elements themselves, in dB."""
    error = x.astype(np.float64) - dequantize(quantize(x, params), params)
    return float(10 * np.log10((x.astype(np.float64) ** 2).sum() / (error**2).sum()))


@given(
    seed=st.integers(0, 1000),
    bits=st.sampled_from([UINT8, INT8]),
    widening=st.sampled_from([0.25, 0.5, 1.0, 4.0, 30.0]),
    positive=st.booleans(),
)
def test_the_histogram_tells_about_what_the_elements_do(
    seed: int, bits: object, widening: float, positive: bool
) -> None:
    x = np.random.default_rng(seed).normal(size=20000).astype(np.float32)
    x = np.maximum(x, 0) if positive else x
    spec = QuantSpec(qtype=bits)  # type: ignore[arg-type]
    params = affine_params(x.min() * widening, x.max() * widening, spec)
    bins = Histogram().of(x).as_bins()
    assert quantization_sqnr(bins, params) == pytest.approx(brute_force(x, params), abs=1.0)


@pytest.mark.slow
def test_outliers_hide_that_the_rest_is_lost_unless_the_bulk_is_asked() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 0.01, 100000), np.full(100, 1000.0)]).astype(np.float32)
    params = affine_params(x.min(), x.max(), QuantSpec(qtype=UINT8))
    bins = Histogram(bins=1 << 20).of(x).as_bins()
    assert quantization_sqnr(bins, params) > 30
    assert quantization_sqnr(bins, params, bulk=0.99) < 1
    assert brute_force(x[:100000], params) < 1


def test_more_bits_are_better() -> None:
    x = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    bins = Histogram(bins=1 << 16).of(x).as_bins()
    eight, sixteen = (
        quantization_sqnr(bins, affine_params(x.min(), x.max(), QuantSpec(qtype=one))) for one in (UINT8, UINT16)
    )
    assert sixteen > eight + 40


def test_nothing_to_lose_loses_nothing() -> None:
    params = affine_params(0.0, 1.0, QuantSpec(qtype=UINT8))
    assert quantization_sqnr(Histogram().as_bins(), params) == math.inf
    assert quantization_sqnr(Histogram().as_bins(), params, bulk=0.99) == math.inf
    assert quantization_sqnr(Histogram().of(np.zeros(10, np.float32)).as_bins(), params) == math.inf
