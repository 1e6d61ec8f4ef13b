"""Integer types by ONNX's number: numpy's types, and the codes that a tensor uses."""

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from vqonnx.core.qtype import INT4, INT8, INT16, QTYPES, UINT4, UINT8, UINT16, QType
from vqonnx.core.spec import QuantSpec
from vqonnx.errors import OptionError

Ends = tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]

QTYPE_OF: dict[int, QType] = {
    getattr(TensorProto, qtype.name.upper()): qtype for qtype in (INT4, UINT4, INT8, UINT8, INT16, UINT16)
}
"""The core's description of each integer type."""


def _ends(qtype: QType, low: int, high: int) -> Ends:
    return np.array(low, qtype.dtype), np.array(high, qtype.dtype)


def _reduced(qtype: QType) -> Ends:
    if qtype == INT4:
        return _ends(qtype, -4, 3)  # the peer's; one code less at the top than other signed types
    spec = QuantSpec(qtype=qtype, reduce_range=True)
    return _ends(qtype, spec.qmin, spec.qmax)


ONNX_INT_TYPE_RANGE = {number: _ends(qtype, qtype.qmin, qtype.qmax) for number, qtype in QTYPE_OF.items()}
ONNX_INT_TYPE_SYMMETRIC_RANGE = {
    number: _ends(qtype, -qtype.qmax, qtype.qmax) for number, qtype in QTYPE_OF.items() if qtype in (INT8, INT16)
}
ONNX_INT_TYPE_REDUCED_RANGE = {number: _reduced(qtype) for number, qtype in QTYPE_OF.items()}
ONNX_TYPE_TO_NP_TYPE = {
    **{number: qtype.dtype for number, qtype in QTYPE_OF.items()},
    TensorProto.FLOAT8E4M3FN: QTYPES["float8e4m3fn"].dtype,
}
FLOAT8_TYPES = (
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT8E4M3FNUZ,
    TensorProto.FLOAT8E5M2,
    TensorProto.FLOAT8E5M2FNUZ,
)


def get_qmin_qmax_for_qType(qType: int, reduce_range: bool = False, symmetric: bool = False) -> Ends:  # noqa: N802
    """Smallest and largest code, in the numpy type of an ONNX type.

    Args:
        qType: A member of ``onnx.TensorProto``.
        reduce_range: One bit less.
        symmetric: Give up the lowest code of int8 and int16, so that -x exists.

    Raises:
        NotImplementedError: The type is float8, whose codes have no ends to fill.
        OptionError: It is no integer type of quantization.
    """
    if qType == TensorProto.FLOAT8E4M3FN:
        raise NotImplementedError("float8 codes have no smallest and largest to fill; see compute_scale_zp_float8")
    table = ONNX_INT_TYPE_REDUCED_RANGE if reduce_range else ONNX_INT_TYPE_RANGE
    if symmetric and not reduce_range and qType in ONNX_INT_TYPE_SYMMETRIC_RANGE:
        table = ONNX_INT_TYPE_SYMMETRIC_RANGE
    if qType not in table:
        raise OptionError(f"{qType} is no integer type that tensors are quantized to", option="qType")
    return table[qType]


def get_qrange_for_qType(qType: int, reduce_range: bool = False, symmetric: bool = False) -> int:  # noqa: N802
    """Largest minus smallest code; see ``get_qmin_qmax_for_qType``. The peer's wraps round in the type."""
    low, high = get_qmin_qmax_for_qType(qType, reduce_range, symmetric)
    return int(high) - int(low)
