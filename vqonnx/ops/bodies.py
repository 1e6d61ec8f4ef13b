"""What the operators compute: numpy arrays in and out, as onnxruntime-extensions calls them.

An exception must not leave a body: it cannot pass through ONNX Runtime and ends the process. ``make_runnable`` refuses
before a session is made what would fail here; of a model that it has not seen, such a node's output becomes NaN (0 in
integers), and the reason is logged.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from vqonnx.core.custom_ops import block_float_of, fix_neuron_bits, microscaling_of
from vqonnx.core.granularity import PerAxis
from vqonnx.core.params import QuantParams
from vqonnx.core.qtype import QTYPES
from vqonnx.core.spec import QuantSpec
from vqonnx.errors import OptionError, VqonnxError
from vqonnx.kernels.affine import dequantize, quantize, round_to_steps
from vqonnx.kernels.formats.blockfloat import round_to_block_float
from vqonnx.kernels.formats.microscaling import round_to_microscaling

F32 = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

_log = logging.getLogger(__name__)


class HandedOver:
    """An array on its way to ONNX Runtime, which copies it once.

    onnxruntime-extensions asks what a body returns for ``flatten().tolist()`` and makes an array of that again, which
    takes 80 ns an element; but it takes an array in the list's place.
    """

    def __init__(self, array: Array) -> None:
        self.shape = array.shape
        self._elements = np.ascontiguousarray(array).reshape(-1)

    def flatten(self) -> "HandedOver":
        """Itself."""
        return self

    def tolist(self) -> Array:
        """The elements in one row: an array."""
        return self._elements


def block_float(x: F32, **attributes: Any) -> HandedOver:
    """BFPQuantizeDequantize."""
    return _contained(lambda: round_to_block_float(x, block_float_of(attributes), attributes["axis"]), x, np.nan)


def microscaling(x: F32, **attributes: Any) -> HandedOver:
    """MXQuantizeDequantize."""
    return _contained(lambda: round_to_microscaling(x, microscaling_of(attributes), attributes["axis"]), x, np.nan)


def quantize_linear(x: F32, scale: F32, zero_point: Array, *, axis: int) -> HandedOver:
    """ExtendedQuantizeLinear: ``saturate(round(x / scale) + zero_point)``, halves to even; NaN counts as 0."""

    def codes() -> Array:
        numbers = np.where(np.isnan(x), np.float32(0), x)
        return quantize(numbers, _params(scale, zero_point, axis, x.shape))

    return _contained(codes, x, zero_point.dtype.type(0))


def dequantize_linear(codes: Array, scale: F32, zero_point: Array, *, axis: int) -> HandedOver:
    """ExtendedDequantizeLinear: ``(codes - zero_point) * scale``."""
    return _contained(
        lambda: dequantize(codes, _params(scale, zero_point, axis, codes.shape)), codes, np.float32(np.nan)
    )


def fix_neuron(x: F32, scale: F32, zero_point: Array, **attributes: Any) -> HandedOver:
    """FixNeuron; NaN stays what it is."""

    def fixed() -> Array:
        bits = fix_neuron_bits(attributes)
        return round_to_steps(x, _single(scale, "scale"), _single(zero_point, "zero point"), bits)

    return _contained(fixed, x, np.float32(np.nan))


def _single(array: Array, what: str) -> float:
    if array.size != 1:
        raise OptionError(f"FixNeuron takes one {what}, got the shape {array.shape}", option="axis")
    return float(array.reshape(()))


def _params(scale: F32, zero_point: Array, axis: int, shape: tuple[int, ...]) -> QuantParams:
    qtype = QTYPES[zero_point.dtype.name]
    if scale.size == 1:
        return QuantParams(scale.reshape(()), zero_point.reshape(-1)[:1].reshape(()), QuantSpec(qtype=qtype))
    if not -len(shape) <= axis < len(shape) or (shape[axis],) != scale.shape or scale.shape != zero_point.shape:
        raise OptionError(
            f"scales of shape {scale.shape} and zero points of shape {zero_point.shape} do not lie along axis {axis} "
            f"of a tensor of shape {shape}",
            option="axis",
        )
    return QuantParams(scale, zero_point, QuantSpec(qtype=qtype, granularity=PerAxis(axis)))


def _contained(compute: Callable[[], Array], source: Array, failure: Any) -> HandedOver:
    """What ``compute`` gives; where it cannot, ``failure`` in the shape of ``source``."""
    try:
        with np.errstate(all="ignore"):  # a warning may have been made an error
            return HandedOver(compute())
    except VqonnxError as error:
        _log.error("a custom operator cannot compute its output, which becomes %s: %s", failure, error)
        return HandedOver(np.full(source.shape, failure, np.asarray(failure).dtype))
