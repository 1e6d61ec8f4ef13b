"""Codes by slabs of rows are those of the whole matrix."""

import numpy as np
import pytest

from vqonnx.core.granularity import PerAxis, PerTensor
from vqonnx.core.qtype import INT8, UINT8
from vqonnx.core.spec import QuantSpec
from vqonnx.errors import QuantRangeError
from vqonnx.kernels import row_codes
from vqonnx.kernels.affine import dequantize, round_to_nearest
from vqonnx.kernels.metrics import ErrorSums


@pytest.fixture(params=[None, 3], ids=["one slab", "slabs of three rows"], autouse=True)
def slab(request, monkeypatch):
    if request.param is not None:
        monkeypatch.setattr(row_codes, "_SLAB_BYTES", request.param * 4 * 5)


@pytest.mark.parametrize("granularity", [PerAxis(0), PerTensor()])
@pytest.mark.parametrize(("qtype", "symmetric"), [(INT8, True), (UINT8, False), (UINT8, True)])
@pytest.mark.parametrize("turned", [True, False])
def test_slabs_change_nothing(granularity, qtype, symmetric, turned, rng):
    spec = QuantSpec(qtype=qtype, symmetric=symmetric, granularity=granularity)
    rows = rng.standard_normal((5, 8) if turned else (8, 5)).astype(np.float32)
    rows = rows.T if turned else rows
    wanted = round_to_nearest(rows, spec)
    params = row_codes.row_params(rows, spec)
    codes = row_codes.row_codes(rows, params)
    np.testing.assert_array_equal(params.scale, wanted.params.scale)
    np.testing.assert_array_equal(params.zero_point, wanted.params.zero_point)
    np.testing.assert_array_equal(codes, wanted.codes)
    numbers = row_codes.rounded(rows, params)
    np.testing.assert_array_equal(numbers, dequantize(codes, params))
    assert np.abs(numbers - rows).max() <= params.scale.max() * 0.51
    wanted_db = ErrorSums.of(rows, numbers).sqnr_db
    assert -10 * np.log10(row_codes.rounding_error(rows, params)) == pytest.approx(wanted_db)


def test_a_number_that_is_not_finite_is_refused():
    rows = np.zeros((8, 5), np.float32)
    rows[7, 4] = np.inf
    with pytest.raises(QuantRangeError, match="NaN or infinite"):
        row_codes.row_params(rows, QuantSpec(qtype=INT8, symmetric=True, granularity=PerAxis(0)))


def test_zeros_have_no_error():
    rows = np.zeros((8, 5), np.float32)
    params = row_codes.row_params(rows, QuantSpec(qtype=INT8, symmetric=True, granularity=PerAxis(0)))
    assert row_codes.rounding_error(rows, params) == 0
