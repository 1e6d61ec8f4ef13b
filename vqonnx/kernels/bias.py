"""Biases of integer kernels: int32 at input_scale x weight_scale, so that they add to the accumulator."""

import numpy as np
import numpy.typing as npt

from vqonnx.core.granularity import Array, PerAxis, PerTensor
from vqonnx.core.params import QuantizedTensor, QuantParams
from vqonnx.core.qtype import INT32, Kind
from vqonnx.core.spec import QuantSpec

# The accumulator adds K products of at most 255 * 128 to the bias; half of int32 is left to them.
BIAS_LIMIT = 2**30
_SMALLEST_SCALE = 2.0**-126


def bias_scale(
    input_scale: Array,
    weight_scale: Array,
    beta: float = 1.0,
    repeats: int = 1,
) -> npt.NDArray[np.float64]:
    """``input_scale * weight_scale * beta``, shape [] or [C].

    Args:
        input_scale: Scale of the node's input, one number.
        weight_scale: Scale of its weight, [] or [C].
        beta: Factor of the bias (Gemm).
        repeats: How often the weight's scale repeats along the bias (groups of a ConvTranspose).
    """
    product = np.asarray(input_scale, np.float64).reshape(()) * np.asarray(weight_scale, np.float64) * beta
    return np.tile(product, repeats) if repeats > 1 and product.ndim else product


def quantize_bias(bias: Array, scale: npt.NDArray[np.float64], dtype: npt.DTypeLike = np.float32) -> QuantizedTensor:
    """int32 codes with zero point 0; codes beyond int32 saturate (``grown_weight_scale`` prevents them).

    Args:
        bias: Shape [C].
        scale: Shape [] or [C].
        dtype: Type of the scale; float16 holds one to 11 bits, which the codes make up for.
    """
    narrow = np.asarray(np.maximum(scale, np.finfo(dtype).smallest_subnormal), dtype)
    granularity = PerAxis(0) if narrow.ndim else PerTensor()
    spec = QuantSpec(qtype=INT32, symmetric=True, granularity=granularity)
    codes = np.rint(bias.astype(np.float64) / narrow.astype(np.float64))
    codes = np.clip(codes, spec.qmin, spec.qmax).astype(np.int32)
    return QuantizedTensor(codes, QuantParams(narrow, np.zeros(narrow.shape, np.int32), spec))


def shifted_bias(bias: QuantizedTensor, shift: npt.NDArray[np.float64]) -> QuantizedTensor:
    """The nearest codes of the bias's value plus ``shift``, at the same scale; what is beyond its type saturates.

    Args:
        bias: Codes of any type, shape [C].
        shift: Shape [C].
    """
    spec = bias.params.spec
    if spec.qtype.kind is Kind.FLOAT:
        return QuantizedTensor((bias.codes.astype(np.float64) + shift).astype(bias.codes.dtype), bias.params)
    codes = np.rint(bias.codes.astype(np.float64) + shift / bias.params.scale.astype(np.float64))
    return QuantizedTensor(np.clip(codes, spec.qmin, spec.qmax).astype(bias.codes.dtype), bias.params)


def grown_weight_scale(
    weight_scale: Array,
    input_scale: Array,
    bias: Array,
    repeats: int = 1,
) -> Array:
    """The weight's scale, grown just enough that the bias fits int32 and its scale is a normal float32.

    Args:
        weight_scale: [] or [C].
        input_scale: One number.
        bias: [C * repeats]; its largest channel counts where the scale is per tensor.
        repeats: How often the weight's scale repeats along the bias.

    Returns:
        Shape and dtype of ``weight_scale``, nowhere smaller.
    """
    size = np.abs(bias.astype(np.float64))
    needed = size.reshape(repeats, -1).max(axis=0) if weight_scale.ndim else np.max(size, initial=0.0)
    step = float(np.asarray(input_scale, np.float64).reshape(()))
    least = np.maximum(needed / (step * BIAS_LIMIT), 2 * _SMALLEST_SCALE / step)
    grown: npt.NDArray[np.float64] = np.maximum(weight_scale.astype(np.float64), least)
    return grown.astype(weight_scale.dtype)


def mean_shift(weight_error: npt.NDArray[np.float64], input_means: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What rounding a weight takes from the mean of each output channel: sum_i error[o, i, …] E[x_i].

    Args:
        weight_error: Float minus rounded weight, [outputs, inputs of a group, …].
        input_means: Mean of each input channel, [inputs of a group * groups].

    Returns:
        [outputs], to be added to the bias.
    """
    per_input = weight_error.reshape(*weight_error.shape[:2], -1).sum(axis=2)
    groups = input_means.size // per_input.shape[1]
    grouped = per_input.reshape(groups, -1, per_input.shape[1])
    shift: npt.NDArray[np.float64] = np.einsum("gok,gk->go", grouped, input_means.reshape(groups, -1)).reshape(-1)
    return shift
