"""``extra_options``, with the keys of onnxruntime.quantization, parsed once into typed values."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

import numpy as np

from vqonnx.core.target import Target
from vqonnx.errors import OptionError, nearest
from vqonnx.planning.rules import Override
from vqonnx.quantizers.overrides import parse_overrides


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraOptions:
    """The options, named as in onnxruntime.quantization but in this language's case.

    Attributes:
        activation_symmetric: Centre the ranges of activations on zero; None lets the target decide.
        weight_symmetric: Centre the ranges of weights; None lets the type decide (signed ones are).
        force_quantize_no_input_check: Quantize light operators too that stand between float ones.
        mat_mul_const_b_only: Leave a MatMul of two activations float.
        calib_tensor_range_symmetric: Centre every measured range on zero, keeping the type's zero point free.
        calib_moving_average: Use the moving average of the samples' ranges instead of their union.
        calib_moving_average_constant: Its weight of a new sample, in (0, 1].
        calib_max_intermediate_outputs: Accepted; memory is bounded without it.
        calib_percentile: Share of the elements, in percent, that a percentile range keeps.
        quantize_bias: Whether biases become int32.
        use_qdq_contrib_ops: Write com.microsoft's QuantizeLinear and DequantizeLinear.
        minimum_real_range: Smallest width of an activation's range.
        tensor_quant_overrides: By tensor name.
        qdq_keep_removable_activations: Keep Relu and Clip nodes that a range repeats exactly.
        qdq_disable_weight_adjust_for_int32_bias: Never grow a weight's scale so that a bias fits.
        activation_restricted_asymmetric: Give uint8 activations zero point 0, or 128 where they can be negative.
        sigmoid_nnapi: Give outputs of Sigmoid scale 1/256 and zero point 0 (QOperator form, uint8).
        enable_subgraph: Quantize nodes in bodies of If, Loop and Scan; None lets the target decide.
        add_qdq_pair_to_weight: Keep weights float, with a QuantizeLinear before their DequantizeLinear.
        op_types_to_exclude_output_quantization: Operators whose outputs are not quantized.
        dedicated_qdq_pair: Give each reader of an activation a pair of its own.
        qdq_op_type_per_channel_support_to_axis: Channel axis of weights by operator.
        calib_strided_min_max: Samples that a reader with ``set_range`` gives at a time.
        smooth_quant: Divide channels of activations, and multiply those of weights, before anything is quantized.
        smooth_quant_alpha: Share of the ranges' ratio that goes into the weights, in [0, 1].
        smooth_quant_folding: Fold the divisions into what computes the activations, where that can be done.
        block_size: Elements of a MatMul's or Gemm's weight that share a scale; 0: no blocks. Needs opset 21.
        default_tensor_type: Type (``onnx.TensorProto``) of tensors that have none after inference.
        target: A target, or the name of one; vqonnx's own key ``Target``.
    """

    activation_symmetric: bool | None = None
    weight_symmetric: bool | None = None
    force_quantize_no_input_check: bool = False
    mat_mul_const_b_only: bool = False
    calib_tensor_range_symmetric: bool = False
    calib_moving_average: bool = False
    calib_moving_average_constant: float = 0.01
    calib_max_intermediate_outputs: int | None = None
    calib_percentile: float = 99.999
    quantize_bias: bool = True
    use_qdq_contrib_ops: bool = False
    minimum_real_range: float | None = None
    tensor_quant_overrides: Mapping[str, Override] = field(default_factory=dict)
    qdq_keep_removable_activations: bool = False
    qdq_disable_weight_adjust_for_int32_bias: bool = False
    activation_restricted_asymmetric: bool = False
    sigmoid_nnapi: bool = False
    enable_subgraph: bool | None = None
    add_qdq_pair_to_weight: bool = False
    op_types_to_exclude_output_quantization: Sequence[str] = ()
    dedicated_qdq_pair: bool = False
    qdq_op_type_per_channel_support_to_axis: Mapping[str, int] = field(default_factory=dict)
    calib_strided_min_max: int | None = None
    smooth_quant: bool = False
    smooth_quant_alpha: float = 0.5
    smooth_quant_folding: bool = True
    block_size: int = 0
    default_tensor_type: int | None = None
    target: Target | str | None = None


_FIELDS = {
    "ActivationSymmetric": "activation_symmetric",
    "WeightSymmetric": "weight_symmetric",
    "ForceQuantizeNoInputCheck": "force_quantize_no_input_check",
    "MatMulConstBOnly": "mat_mul_const_b_only",
    "CalibTensorRangeSymmetric": "calib_tensor_range_symmetric",
    "CalibMovingAverage": "calib_moving_average",
    "CalibMovingAverageConstant": "calib_moving_average_constant",
    "CalibMaxIntermediateOutputs": "calib_max_intermediate_outputs",
    "CalibPercentile": "calib_percentile",
    "QuantizeBias": "quantize_bias",
    "UseQDQContribOps": "use_qdq_contrib_ops",
    "MinimumRealRange": "minimum_real_range",
    "TensorQuantOverrides": "tensor_quant_overrides",
    "QDQKeepRemovableActivations": "qdq_keep_removable_activations",
    "QDQDisableWeightAdjustForInt32Bias": "qdq_disable_weight_adjust_for_int32_bias",
    "ActivationRestrictedAsymmetric": "activation_restricted_asymmetric",
    "extra.Sigmoid.nnapi": "sigmoid_nnapi",
    "EnableSubgraph": "enable_subgraph",
    "AddQDQPairToWeight": "add_qdq_pair_to_weight",
    "OpTypesToExcludeOutputQuantization": "op_types_to_exclude_output_quantization",
    "OpTypesToExcludeOutputQuantizatioin": "op_types_to_exclude_output_quantization",  # so up to onnxruntime 1.17
    "DedicatedQDQPair": "dedicated_qdq_pair",
    "QDQOpTypePerChannelSupportToAxis": "qdq_op_type_per_channel_support_to_axis",
    "CalibStridedMinMax": "calib_strided_min_max",
    "SmoothQuant": "smooth_quant",
    "SmoothQuantAlpha": "smooth_quant_alpha",
    "SmoothQuantFolding": "smooth_quant_folding",
    "BlockSize": "block_size",
    "DefaultTensorType": "default_tensor_type",
    "Target": "target",
}
STATIC_OPTIONS = frozenset(_FIELDS)
"""The keys; those of AMD's NPU are in ``vitis_options``."""


def parse_extra_options(raw: Mapping[str, object] | None, further: Collection[str] = ()) -> ExtraOptions:
    """Read ``extra_options``; the caller's dictionary is not changed.

    Args:
        raw: By key.
        further: Keys that other modules read, for messages.

    Raises:
        OptionError: A key is unknown, or a value has the wrong type.
    """
    given: dict[str, object] = {}
    for key, value in (raw or {}).items():
        if key in _FIELDS:
            given[_FIELDS[key]] = parse_overrides(value) if key == "TensorQuantOverrides" else value
        else:
            known = sorted({*_FIELDS, *further})
            raise OptionError(
                f"extra_options: {key!r} is no option{nearest(key, known)}. Known are {', '.join(known)}.", option=key
            )
    _check_types(given)
    return ExtraOptions(**given)  # type: ignore[arg-type]  # checked above


def _check_types(given: Mapping[str, object]) -> None:
    default = ExtraOptions()
    for key, name in _FIELDS.items():
        taken, fits = _VALUES.get(name, _FLAG)
        if name in given and given[name] != getattr(default, name) and not fits(given[name]):
            raise OptionError(f"extra_options: {key!r} takes {taken}, got {given[name]!r}.", option=key)


def _is_flag(value: object) -> bool:
    return isinstance(value, (bool, np.bool_))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= 0


def _is_names(value: object) -> bool:
    if not isinstance(value, (list, tuple, set, frozenset)):
        return False
    return all(isinstance(name, str) for name in value)


def _is_axes(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and all(isinstance(name, str) for name in value)
        and all(isinstance(axis, (int, np.integer)) for axis in value.values())
    )


_FLAG: tuple[str, Callable[[object], bool]] = ("True or False", _is_flag)
_VALUES: dict[str, tuple[str, Callable[[object], bool]]] = {
    "calib_moving_average_constant": ("a number in (0, 1]", lambda value: _is_number(value) and 0 < value <= 1),
    "calib_max_intermediate_outputs": ("a whole number", lambda value: isinstance(value, int)),
    "calib_percentile": ("a number", _is_number),
    "minimum_real_range": ("a number >= 0", lambda value: _is_number(value) and 0 <= value < math.inf),
    "tensor_quant_overrides": ("a dictionary", lambda value: isinstance(value, Mapping)),
    "op_types_to_exclude_output_quantization": ("a list of operators", _is_names),
    "qdq_op_type_per_channel_support_to_axis": ("a dictionary of axes by operator", _is_axes),
    "calib_strided_min_max": ("a whole number >= 0", _is_count),
    "smooth_quant_alpha": ("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1),
    "block_size": ("a whole number >= 0", _is_count),
    "default_tensor_type": ("a member of onnx.TensorProto.DataType", _is_count),
    "target": ("a target or the name of one", lambda value: isinstance(value, (str, Target))),
}
"""What an option takes, and whether a value is that; those not named here are flags."""
