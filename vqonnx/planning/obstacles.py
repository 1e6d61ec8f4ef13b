"""Why a node stays float though its operator has an integer kernel; each check gives a reason, or nothing."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from vqonnx.core.target import Kernel
from vqonnx.graph.facts import clip_bounds, float_attribute, opset_of, pad_fill, softmax_axes
from vqonnx.graph.walk import constant, constant_tensor, is_float
from vqonnx.kernels.dpu import is_hard_sigmoid
from vqonnx.planning.candidate import Candidate

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})


def _opset_too_low(candidate: Candidate) -> str:
    node, needed = candidate.node, candidate.support.opset
    version = opset_of(node) or needed
    return f"{node.op_type} has an integer kernel from opset {needed} on, the model has {version}" * (version < needed)


def _attribute_not_taken(candidate: Candidate) -> str:
    for name, taken in candidate.support.attributes.items():
        attribute = candidate.node.attributes.get(name)
        if attribute is not None and attribute.value not in taken:
            return f"its integer kernel does not take {name}={attribute.value}"
    return ""


def _input_not_taken(candidate: Candidate) -> str:
    found = next((index for index in candidate.support.absent if candidate.input(index) is not None), None)
    return "" if found is None else f"its integer kernel does not take input {found}"


def _fills_with_other_than_zero(candidate: Candidate) -> str:
    """Zero is in every range; what else a Pad fills with may be in none, however it was measured."""
    if candidate.node.op_type != "Pad":
        return ""
    fill = pad_fill(candidate.node)
    if fill is None:
        return "what it fills with is computed at run time"
    return "" if fill == 0 else f"it fills with {fill:g}, which the range of its input may not hold"


def _gives_sum_of_rows(candidate: Candidate) -> str:
    node = candidate.node
    third = node.op_type == "EmbedLayerNormalization" and len(node.outputs) > 2 and node.outputs[2].name
    return "it gives the sum of its rows, which QEmbedLayerNormalization does not" if third else ""


def _normalizes_one_element(candidate: Candidate) -> str:
    """Each result is 1 then, and ONNX Runtime's uint8 kernel gives 0 (1.31)."""
    source = candidate.node.inputs[0] if candidate.node.op_type == "Softmax" else None
    shape = None if source is None else source.shape
    alone = shape is not None and all(shape[axis] == 1 for axis in softmax_axes(candidate.node, shape.rank()))
    return "it normalizes one element, whose share is always 1" * alone


def _no_float_input(candidate: Candidate) -> str:
    if candidate.support.kernel is Kernel.CLIPS:
        return ""
    return "" if candidate.activations() else "no float input that changes between runs or could be quantized"


def _unsupported_float(candidate: Candidate) -> str:
    values = (*candidate.node.inputs, *candidate.node.outputs)
    others = {v.dtype.name for v in values if v is not None and v.dtype and is_float(v) and v.dtype not in _FLOATS}
    return f"QuantizeLinear takes float32 and float16, not {', '.join(sorted(others)).lower()}" if others else ""


def _only_constants(candidate: Candidate) -> str:
    values = (candidate.input(i) for i in candidate.activations())
    return "all inputs are constants" if all(v is not None and constant_tensor(v) is not None for v in values) else ""


def _constant_not_finite(candidate: Candidate) -> str:
    """A mask's minus infinity has no scale; a weight that is not finite is an error, as it spoils every sample."""
    for value in (candidate.input(i) for i in candidate.activations()):
        array = constant(value)
        if value is not None and array is not None and not np.isfinite(array).all():
            return f"its constant {value.name!r} holds NaN or infinite values"
    return ""


def _weight_not_constant(candidate: Candidate) -> str:
    support = candidate.support
    if support.weight is None or support.dynamic_weight or candidate.weight() is not None:
        return ""
    return "its weight is computed at run time"


def _empty_weight(candidate: Candidate) -> str:
    weight = candidate.weight()
    tensor = constant_tensor(weight)
    return "its weight has no elements" if tensor is not None and tensor.size == 0 else ""


def _gemm_factors(candidate: Candidate) -> str:
    if candidate.node.op_type != "Gemm":
        return ""
    factors = [float_attribute(candidate.node, name, 1.0) for name in ("alpha", "beta")]
    if factors == [1.0, 1.0] or (factors[0] == 1.0 and candidate.bias() is None):
        return ""
    return "alpha or beta is not 1 and could not be folded into a constant"


def _bias_not_constant(candidate: Candidate) -> str:
    bias = candidate.bias()
    if bias is None:
        return ""
    if constant_tensor(bias) is None:
        return "its bias is computed at run time"
    return "" if candidate.weight() is not None else "it has a bias but no constant weight"


def _bias_no_vector(candidate: Candidate) -> str:
    tensor = constant_tensor(candidate.bias())
    shape = () if tensor is None else tensor.shape.numpy()
    fits = tensor is None or len(shape) == 1
    return "" if fits else f"its bias of shape {list(shape)} is no vector of output channels"


def _clip_needs_constants(candidate: Candidate) -> str:
    if candidate.support.kernel is not Kernel.CLIPS:
        return ""
    bounds = clip_bounds(candidate.node)
    if bounds is None:
        return "its bounds are computed at run time"
    low, high = bounds
    return "" if low <= 0 <= high else f"it clips to [{low:g}, {high:g}], which no range that holds 0 clips like"


def _other_hard_sigmoid(candidate: Candidate) -> str:
    node = candidate.node
    slope, offset = (float_attribute(node, name, default) for name, default in (("alpha", 0.2), ("beta", 0.5)))
    if node.op_type != "HardSigmoid" or is_hard_sigmoid(slope, offset):
        return ""
    return f"the device has one HardSigmoid, x / 6 + 0.5, not {slope:g} x + {offset:g}"


def _half_concat(candidate: Candidate) -> str:
    """Fused, it gets the float16 scales of its neighbours; integer operators are written with float32 ones."""
    node = candidate.node
    if node.op_type != "Concat" or candidate.support.types or node.outputs[0].dtype != ir.DataType.FLOAT16:
        return ""
    return "ONNX Runtime fuses it to QLinearConcat, which takes no float16 scales"


CHECKS: tuple[Callable[[Candidate], str], ...] = (
    _opset_too_low,
    _attribute_not_taken,
    _input_not_taken,
    _fills_with_other_than_zero,
    _normalizes_one_element,
    _no_float_input,
    _unsupported_float,
    _only_constants,
    _constant_not_finite,
    _weight_not_constant,
    _empty_weight,
    _gemm_factors,
    _bias_not_constant,
    _bias_no_vector,
    _clip_needs_constants,
    _other_hard_sigmoid,
    _half_concat,
)
"""What keeps an operator float, in the order in which it is told."""

AS_GIVEN_CHECKS: tuple[Callable[[Candidate], str], ...] = (
    _opset_too_low,
    _attribute_not_taken,
    _input_not_taken,
    _no_float_input,
    _unsupported_float,
    _constant_not_finite,
    _empty_weight,
    _gemm_factors,
)
"""What keeps an operator float on a target that takes graphs as given …"""

INTEGER_CHECKS: tuple[Callable[[Candidate], str], ...] = (
    _normalizes_one_element,
    _weight_not_constant,
    _bias_not_constant,
    _gives_sum_of_rows,
)
"""… and besides where it is to become an integer operator …"""

CHANNEL_CHECKS: tuple[Callable[[Candidate], str], ...] = (_bias_no_vector,)
"""… with one scale an output channel."""


def is_exact_on_codes(candidate: Candidate) -> bool:
    """Whether a mover adds no value of its own, and a clip is one that some range repeats."""
    return not (_fills_with_other_than_zero(candidate) or _clip_needs_constants(candidate))
