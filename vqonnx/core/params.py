"""Scales, zero points and quantized tensors."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vqonnx.core.spec import QuantSpec


@dataclass(frozen=True, slots=True, eq=False)
class QuantParams:
    """``real = (code - zero_point) * scale``.

    Attributes:
        scale: float32 (float16 in a float16 model), finite, > 0; shape [] per tensor, [C] per axis, and the
            tensor's shape divided by the block size per block.
        zero_point: Same shape, ``spec.qtype.dtype``.
        spec: What was asked for.
    """

    scale: npt.NDArray[np.floating]
    zero_point: npt.NDArray[np.generic]
    spec: QuantSpec


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedTensor:
    """Codes, in the shape of the float tensor and the dtype of the type, with their parameters."""

    codes: npt.NDArray[np.generic]
    params: QuantParams
