"""The configurations that ``quantize`` takes, with the names and defaults of onnxruntime.quantization."""

import copy
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any

import onnx

from vqonnx.calibration.readers import Reader
from vqonnx.planning.rules import Pattern
from vqonnx.quantizers.types import CalibrationMethod, QuantFormat, QuantType

_LARGEST_PROTOBUF = 2147483648
_NEVER_NAMED = frozenset({"Cast", "DequantizeLinear", "QuantizeLinear"})
_FOUR_BITS = frozenset({QuantType.QInt4, QuantType.QUInt4})
_SIXTEEN_BITS = frozenset({QuantType.QInt16, QuantType.QUInt16})
_NATIVE_OPSET = 21
_CALIBRATE_ARGS = {
    "symmetric": "CalibTensorRangeSymmetric",
    "moving_average": "CalibMovingAverage",
    "averaging_constant": "CalibMovingAverageConstant",
    "max_intermediate_outputs": "CalibMaxIntermediateOutputs",
    "percentile": "CalibPercentile",
}


class QuantConfig:
    """What both configurations have; the attributes are named like the parameters."""

    def __init__(
        self,
        activation_type: QuantType = QuantType.QUInt8,
        weight_type: QuantType = QuantType.QInt8,
        op_types_to_quantize: Sequence[str] | None = None,
        nodes_to_quantize: Sequence[Pattern] | None = None,
        nodes_to_exclude: Sequence[Pattern] | None = None,
        per_channel: bool = False,
        reduce_range: bool = False,
        use_external_data_format: bool = False,
    ) -> None:
        self.activation_type, self.weight_type = activation_type, weight_type
        self.op_types_to_quantize = op_types_to_quantize or []
        self.nodes_to_quantize = nodes_to_quantize or []
        self.nodes_to_exclude = nodes_to_exclude or []
        self.per_channel, self.reduce_range = per_channel, reduce_range
        self.use_external_data_format = use_external_data_format


class StaticQuantConfig(QuantConfig):
    """The arguments of ``compat.quantize.quantize_static`` but models and cache."""

    def __init__(
        self,
        calibration_data_reader: Reader | None,
        calibrate_method: CalibrationMethod = CalibrationMethod.MinMax,
        quant_format: QuantFormat = QuantFormat.QDQ,
        activation_type: QuantType = QuantType.QInt8,
        weight_type: QuantType = QuantType.QInt8,
        op_types_to_quantize: Sequence[str] | None = None,
        nodes_to_quantize: Sequence[Pattern] | None = None,
        nodes_to_exclude: Sequence[Pattern] | None = None,
        per_channel: bool = False,
        reduce_range: bool = False,
        use_external_data_format: bool = False,
        calibration_providers: Sequence[str] | None = None,
        extra_options: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(
            activation_type,
            weight_type,
            op_types_to_quantize,
            nodes_to_quantize,
            nodes_to_exclude,
            per_channel,
            reduce_range,
            use_external_data_format,
        )
        self.calibration_data_reader, self.calibrate_method = calibration_data_reader, calibrate_method
        self.quant_format, self.calibration_providers = quant_format, calibration_providers
        self.extra_options = extra_options or {}


class DynamicQuantConfig(QuantConfig):
    """The arguments of ``compat.quantize.quantize_dynamic`` but models."""

    def __init__(
        self,
        weight_type: QuantType = QuantType.QInt8,
        op_types_to_quantize: Sequence[str] | None = None,
        nodes_to_quantize: Sequence[Pattern] | None = None,
        nodes_to_exclude: Sequence[Pattern] | None = None,
        per_channel: bool = False,
        reduce_range: bool = False,
        use_external_data_format: bool = False,
        extra_options: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(
            QuantType.QUInt8,
            weight_type,
            op_types_to_quantize,
            nodes_to_quantize,
            nodes_to_exclude,
            per_channel,
            reduce_range,
            use_external_data_format,
        )
        self.extra_options = extra_options or {}


def get_qdq_config(
    model_input: str | PathLike[str] | onnx.ModelProto,
    calibration_data_reader: Reader | None,
    calibrate_method: CalibrationMethod = CalibrationMethod.MinMax,
    calibrate_args: Mapping[str, Any] | None = None,
    activation_type: QuantType = QuantType.QUInt8,
    weight_type: QuantType = QuantType.QInt8,
    activation_symmetric: bool = False,
    weight_symmetric: bool | None = None,
    per_channel: bool = False,
    reduce_range: bool = False,
    keep_removable_activations: bool = False,
    min_real_range: float | None = None,
    tensor_quant_overrides: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    calibration_providers: Sequence[str] | None = None,
    op_types_to_quantize: Sequence[str] | None = None,
    nodes_to_exclude: Sequence[str] | Callable[[onnx.ModelProto, onnx.NodeProto], bool] | None = None,
    extra_options: Mapping[str, object] | None = None,
) -> StaticQuantConfig:
    """A configuration that quantizes every operator of a model, in QDQ form.

    Args:
        model_input: The model; weights are not read.
        calibration_data_reader: Feeds.
        calibrate_method: How ranges are chosen.
        calibrate_args: ``symmetric``, ``moving_average``, ``averaging_constant``, ``max_intermediate_outputs``,
            ``percentile``: the ``Calib…`` keys of ``extra_options``.
        activation_type: Element type of activations.
        weight_type: Element type of weights.
        activation_symmetric: Centre the ranges of activations on zero.
        weight_symmetric: Centre those of weights; None: where their type is signed.
        per_channel: One scale an output channel for weights.
        reduce_range: One bit less for weights.
        keep_removable_activations: Keep Relu and Clip nodes that a range repeats.
        min_real_range: Smallest width of a range.
        tensor_quant_overrides: What is fixed for single tensors; copied.
        calibration_providers: Execution providers of calibration.
        op_types_to_quantize: Operators; by default all of the model but Cast, QuantizeLinear and DequantizeLinear.
        nodes_to_exclude: Names of nodes, or a function of model and node, to leave float.
        extra_options: Further options, which win over those made of the arguments.

    Returns:
        The configuration, for ``quantize``.
    """
    model = _graph(model_input)
    overrides = copy.deepcopy(dict(tensor_quant_overrides or {}))
    excluded = _excluded(model, nodes_to_exclude)
    present = dict.fromkeys(node.op_type for node in model.graph.node if node.name not in excluded)
    options: dict[str, object] = {
        "MinimumRealRange": min_real_range,
        "QDQKeepRemovableActivations": keep_removable_activations,
        "ActivationSymmetric": activation_symmetric,
        "WeightSymmetric": weight_symmetric,
        "ForceQuantizeNoInputCheck": True,
        "TensorQuantOverrides": overrides,
        **{_CALIBRATE_ARGS[name]: value for name, value in (calibrate_args or {}).items() if name in _CALIBRATE_ARGS},
    }
    if _needs_contrib(model, {activation_type, weight_type, *_override_types(overrides)}):
        options["UseQDQContribOps"] = True
    return StaticQuantConfig(
        calibration_data_reader,
        calibrate_method=calibrate_method,
        quant_format=QuantFormat.QDQ,
        activation_type=activation_type,
        weight_type=weight_type,
        op_types_to_quantize=op_types_to_quantize or [name for name in present if name not in _NEVER_NAMED],
        nodes_to_exclude=sorted(excluded),
        per_channel=per_channel,
        reduce_range=reduce_range,
        use_external_data_format=_is_large(model),
        calibration_providers=calibration_providers,
        extra_options={**options, **(extra_options or {})},
    )


def get_int_qdq_config(
    model_input: str | PathLike[str] | onnx.ModelProto,
    calibration_data_reader: Reader | None,
    calibrate_method: CalibrationMethod = CalibrationMethod.MinMax,
    activation_type: QuantType = QuantType.QUInt8,
    weight_type: QuantType = QuantType.QInt8,
    activation_symmetric: bool = False,
    weight_symmetric: bool | None = None,
    per_channel: bool = False,
    keep_removable_activations: bool = False,
    min_real_range: float | None = None,
    tensor_quant_overrides: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> StaticQuantConfig:
    """``get_qdq_config`` by its name of onnxruntime 1.19."""
    return get_qdq_config(
        model_input,
        calibration_data_reader,
        calibrate_method,
        activation_type=activation_type,
        weight_type=weight_type,
        activation_symmetric=activation_symmetric,
        weight_symmetric=weight_symmetric,
        per_channel=per_channel,
        keep_removable_activations=keep_removable_activations,
        min_real_range=min_real_range,
        tensor_quant_overrides=tensor_quant_overrides,
    )


def _graph(model: str | PathLike[str] | onnx.ModelProto) -> onnx.ModelProto:
    return model if isinstance(model, onnx.ModelProto) else onnx.load(model, load_external_data=False)


def _excluded(
    model: onnx.ModelProto, chosen: Sequence[str] | Callable[[onnx.ModelProto, onnx.NodeProto], bool] | None
) -> set[str]:
    if callable(chosen):
        return {node.name for node in model.graph.node if chosen(model, node)}
    return set(chosen or ())


def _override_types(overrides: Mapping[str, Sequence[Mapping[str, Any]]]) -> set[QuantType]:
    entries = [entry for found in overrides.values() for entry in found]
    entries += [entry["convert"] for entry in entries if "convert" in entry]
    return {QuantType.of(entry["quant_type"]) for entry in entries if "quant_type" in entry}


def _needs_contrib(model: onnx.ModelProto, types: set[QuantType]) -> bool:
    """Whether 4-bit types are wanted below their opset; 16-bit ones raise it, which serves all."""
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), _NATIVE_OPSET)
    return opset < _NATIVE_OPSET and not types & _SIXTEEN_BITS and bool(types & _FOUR_BITS)


def _is_large(model: onnx.ModelProto) -> bool:
    external = any(onnx.external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer)
    return external or model.ByteSize() >= _LARGEST_PROTOBUF
