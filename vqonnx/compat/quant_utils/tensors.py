"""Arrays and TensorProtos to codes, with given scales and zero points."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from vqonnx.compat.quant_utils.names import TENSOR_NAME_QUANT_SUFFIX, type_to_name
from vqonnx.compat.quant_utils.scales import compute_data_quant_params
from vqonnx.compat.quant_utils.type_tables import FLOAT8_TYPES, ONNX_TYPE_TO_NP_TYPE, QTYPE_OF
from vqonnx.core.granularity import Granularity, PerAxis, PerBlock, PerTensor
from vqonnx.core.params import QuantParams
from vqonnx.core.qtype import QTYPES
from vqonnx.core.spec import QuantSpec
from vqonnx.errors import OptionError, QuantRangeError
from vqonnx.kernels.affine import quantize

Array = npt.NDArray[Any]


def normalize_axis(axis: int, rank: int) -> tuple[bool, int]:
    """Whether an axis exists, and the same axis counted from the front."""
    found = axis + rank if axis < 0 else axis
    return 0 <= found < rank, found


def pack_bytes_to_4bit(src_8bit: bytes) -> bytearray:
    """Two codes a byte, the first in the low half (ONNX's layout of int4); the last half byte of an odd count is 0."""
    codes = np.frombuffer(src_8bit, np.uint8) & 0xF
    low, high = codes[::2].copy(), codes[1::2]
    low[: len(high)] |= high << 4
    return bytearray(low.tobytes())


def quantize_nparray(
    qType: int,
    arr: Array,
    scale: npt.ArrayLike,
    zero_point: npt.ArrayLike,
    low: int | None = None,
    high: int | None = None,
) -> Array:
    """Codes of an array with one scale: round half to even, add the zero point, saturate (ONNX QuantizeLinear-21).

    Args:
        qType: A member of ``onnx.TensorProto``.
        arr: float32 or float16.
        scale: One number.
        zero_point: One number; 0 for float8.
        low: Smallest code, if above that of the type.
        high: Largest code, if below that of the type.

    Raises:
        OptionError: The type is none of quantization.
        NotImplementedError: float8 with a zero point.
    """
    if qType not in ONNX_TYPE_TO_NP_TYPE:
        raise OptionError(f"{qType} is no type that tensors are quantized to", option="qType")
    if qType in FLOAT8_TYPES and np.asarray(zero_point).astype(np.float32).any():
        raise NotImplementedError(f"float8 has no zero point but 0, got {zero_point!r}")
    codes = quantize(np.asarray(arr), _params(qType, scale, zero_point, PerTensor()))
    if low is None and high is None:
        return codes
    wide = codes.astype(np.int64)
    return np.clip(wide, -np.inf if low is None else low, np.inf if high is None else high).astype(codes.dtype)


def quantize_data(
    data: Array,
    qType: int,
    symmetric: bool,
    reduce_range: bool = False,
    min_real_range: float | None = None,
    rmin_override: float | None = None,
    rmax_override: float | None = None,
) -> tuple[Array, Array, Array]:
    """Zero point, scale and codes of an array; the arguments are those of ``compute_data_quant_params``.

    Raises:
        QuantRangeError: It holds NaN or infinity.
    """
    given = (reduce_range, min_real_range, rmin_override, rmax_override)
    zero, scale = compute_data_quant_params(data, qType, symmetric, *given)
    if not np.isfinite(data.astype(np.float32)).all():
        raise QuantRangeError("the data holds NaN or infinity, which have no codes")
    return zero, scale, quantize_nparray(qType, data, scale, zero)


def quantize_onnx_initializer(
    weight: onnx.TensorProto,
    quant_type: int,
    zero_point: Array,
    scale: Array,
    axis: int | None = None,
    quant_weight_name: str | None = None,
    block_size: int = 0,
) -> onnx.TensorProto:
    """The codes of an initializer, under its name and ``_quantized`` unless another is given.

    Args:
        weight: float32 or float16.
        quant_type: A member of ``onnx.TensorProto``.
        zero_point: [] per tensor, [C] per channel, of the blocks' shape per block.
        scale: Of the same shape.
        axis: Axis of channels or blocks; None per tensor.
        quant_weight_name: Another name.
        block_size: Neighbours along ``axis`` that share a scale; 0: none.
    """
    values = tensor_proto_to_array(weight)
    granularity: Granularity = PerTensor()
    if axis is not None:
        granularity = PerBlock(axis, block_size) if block_size else PerAxis(axis)
    codes = quantize(values, _params(quant_type, scale, zero_point, granularity))
    name = quant_weight_name or f"{weight.name}{TENSOR_NAME_QUANT_SUFFIX}"
    if quant_type in (TensorProto.INT4, TensorProto.UINT4):
        packed = bytes(pack_bytes_to_4bit(codes.astype(np.int8).tobytes()))
        return onnx.helper.make_tensor(name, quant_type, list(weight.dims), packed, raw=True)
    if quant_type in FLOAT8_TYPES:
        return onnx.helper.make_tensor(name, quant_type, list(weight.dims), codes.tobytes(), raw=True)
    return numpy_helper.from_array(codes, name)


def tensor_proto_to_array(initializer: onnx.TensorProto) -> Array:
    """The numbers of a float32 or float16 initializer.

    Raises:
        OptionError: It has another type.
    """
    if initializer.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        found = type_to_name.get(initializer.data_type, str(initializer.data_type))
        raise OptionError(f"initializer {initializer.name!r} is {found}; only float ones can be quantized")
    array: Array = numpy_helper.to_array(initializer)
    return array


def _params(qType: int, scale: npt.ArrayLike, zero_point: npt.ArrayLike, granularity: Granularity) -> QuantParams:
    qtype = QTYPE_OF.get(qType, QTYPES["float8e4m3fn"])
    spec = QuantSpec(qtype=qtype, granularity=granularity)
    scales, zeros = np.asarray(scale), np.asarray(zero_point)
    if isinstance(granularity, PerTensor):
        scales, zeros = scales.reshape(()), zeros.reshape(())
    return QuantParams(scales, zeros.astype(qtype.dtype), spec)
