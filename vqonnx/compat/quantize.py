"""onnxruntime.quantization.quantize: the same functions, defaults and node counts over vqonnx's stages.

The target is ``onnxruntime``: the graph is quantized as it is, with the operators that the peer lists; nothing is
equalized, corrected, or left float because of its accuracy. ``vqonnx.quantize_static`` has defaults of its own.

Where the peer writes wrong models these are right: factors of a Gemm are folded, a Relu or Clip goes only where the
range repeats it, a bias on the scale of another consumer gets one of its own, fp16 models get an opset that has fp16
scales, float16 ranges do not collapse, the caller's model is untouched. Names and options that match nothing are
logged, with the nearest.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import onnx

from vqonnx.api import dynamic, static
from vqonnx.calibration.feeds import Feed
from vqonnx.calibration.model import model_inputs
from vqonnx.calibration.readers import Reader, open_samples
from vqonnx.compat.cached import quantize_with, ranges_at
from vqonnx.compat.configs import (
    DynamicQuantConfig,
    QuantConfig,
    StaticQuantConfig,
    get_int_qdq_config,
    get_qdq_config,
)
from vqonnx.compat.options import dynamic_operators, dynamic_options, known_options, verification
from vqonnx.core.qtype import Kind
from vqonnx.errors import OptionError
from vqonnx.graph.io import ModelSource, load, save
from vqonnx.planning.rules import Pattern
from vqonnx.quantizers.types import CalibrationMethod, QuantFormat, QuantizationMode, QuantType

__all__ = [
    "DynamicQuantConfig",
    "QuantConfig",
    "QuantizationMode",
    "StaticQuantConfig",
    "check_static_quant_arguments",
    "get_int_qdq_config",
    "get_qdq_config",
    "quantize",
    "quantize_dynamic",
    "quantize_static",
]

_TARGET = "onnxruntime"
_SIXTEEN_BITS = (QuantType.QInt16, QuantType.QUInt16)


def quantize_static(
    model_input: ModelSource,
    model_output: str | PathLike[str],
    calibration_data_reader: Reader | None = None,
    quant_format: QuantFormat = QuantFormat.QDQ,
    op_types_to_quantize: Sequence[str] | None = None,
    per_channel: bool = False,
    reduce_range: bool = False,
    activation_type: QuantType = QuantType.QInt8,
    weight_type: QuantType = QuantType.QInt8,
    nodes_to_quantize: Sequence[Pattern] | None = None,
    nodes_to_exclude: Sequence[Pattern] | None = None,
    use_external_data_format: bool = False,
    calibrate_method: CalibrationMethod = CalibrationMethod.MinMax,
    calibration_providers: Sequence[str] | None = None,
    extra_options: Mapping[str, object] | None = None,
    calibration_cache_path: str | PathLike[str] | None = None,
) -> None:
    """Quantize weights and activations, with ranges from calibration samples, all of which are used.

    The arguments are those of ``vqonnx.quantize_static``, and the keys of ``extra_options`` are listed in
    ``quantizers.extra_options``; but ``calibration_cache_path`` is a JSON file in the peer's format, and samples are
    not needed where it exists.

    Raises:
        OptionError: An argument makes no sense; it is a ValueError.
        VqonnxError: As ``vqonnx.quantize_static``.
    """
    check_static_quant_arguments(quant_format, activation_type, weight_type)
    options = known_options(extra_options)
    reader = calibration_data_reader
    if reader is not None and (stride := options.get("CalibStridedMinMax")):
        reader = _strided(reader, stride)
    common: dict[str, Any] = {
        "per_channel": bool(per_channel),
        "reduce_range": bool(reduce_range),
        "nodes_to_quantize": nodes_to_quantize or None,
        "nodes_to_exclude": nodes_to_exclude or None,
        "op_types_to_quantize": op_types_to_quantize or None,
        "extra_options": options,
    }
    external = use_external_data_format or None
    if calibration_cache_path is not None:
        ranges = ranges_at(
            calibration_cache_path, model_input, reader, calibrate_method, calibration_providers, options
        )
        types = {"weight_qType": weight_type, "activation_qType": activation_type}
        quantize_with(ranges, model_input, model_output, quant_format, external, {**common, **types})
        return
    if reader is None:
        raise OptionError(
            "calibration_data_reader: samples are needed, or a calibration_cache_path with ranges.",
            option="calibration_data_reader",
        )
    with open_samples(reader, model_inputs(load(model_input)), hold_back_every=0, finite=False) as samples:
        static.quantize_static(
            model_input,
            model_output,
            samples,
            quant_format=quant_format,
            activation_type=activation_type,
            weight_type=weight_type,
            use_external_data_format=external,
            calibrate_method=_method(calibrate_method, activation_type),
            calibration_providers=calibration_providers,
            target=_TARGET,
            equalize=False,
            guard=False,
            bias_correction=False,
            verify=False,
            **common,
        )


def _method(method: CalibrationMethod, activation_type: QuantType) -> CalibrationMethod:
    """The method; but a distribution says how float codes should spread, and integer ones take all that was seen."""
    chosen, element = CalibrationMethod.of(method), QuantType.of(activation_type)
    if chosen is not CalibrationMethod.Distribution or element.qtype.kind is not Kind.INTEGER:
        return chosen
    warnings.warn(
        f"CalibrationMethod.Distribution fits the codes of float types; {element.name} activations take their observed "
        "range, as with CalibrationMethod.MinMax",
        RuntimeWarning,
        stacklevel=3,
    )
    return CalibrationMethod.MinMax


def quantize_dynamic(
    model_input: ModelSource,
    model_output: str | PathLike[str],
    op_types_to_quantize: Sequence[str] | None = None,
    per_channel: bool = False,
    reduce_range: bool = False,
    weight_type: QuantType = QuantType.QInt8,
    nodes_to_quantize: Sequence[Pattern] | None = None,
    nodes_to_exclude: Sequence[Pattern] | None = None,
    use_external_data_format: bool = False,
    extra_options: Mapping[str, object] | None = None,
) -> None:
    """Integer weights, and activations quantized at run time; the arguments are those of ``vqonnx.quantize_dynamic``.

    Naming MatMul names Gemm too, which becomes one.

    Raises:
        OptionError: An argument makes no sense; it is a ValueError.
        VqonnxError: As ``vqonnx.quantize_dynamic``.
    """
    named = dynamic_operators(op_types_to_quantize)
    if not named:
        save(load(model_input), model_output, external=use_external_data_format or None)
        return
    dynamic.quantize_dynamic(
        model_input,
        model_output,
        op_types_to_quantize=named,
        per_channel=bool(per_channel),
        reduce_range=bool(reduce_range),
        weight_type=weight_type,
        nodes_to_quantize=nodes_to_quantize or None,
        nodes_to_exclude=nodes_to_exclude or None,
        use_external_data_format=use_external_data_format or None,
        extra_options={"EnableSubgraph": False, **dynamic_options(extra_options)},
        target=_TARGET,
        verify=verification(model_input),
    )


def quantize(
    model_input: str | PathLike[str] | onnx.ModelProto, model_output: str | PathLike[str], quant_config: Any
) -> None:
    """Quantize a model as a configuration says.

    Args:
        model_input: The float model.
        model_output: Where the quantized one is written; with weights only, tensors go to a data file beside it.
        quant_config: A ``StaticQuantConfig``, ``DynamicQuantConfig`` or ``WeightOnlyQuantConfig``; also onnxruntime's.

    Raises:
        TypeError: It is none of these.
        VqonnxError: As the function that it stands for.
    """
    common = (
        "op_types_to_quantize",
        "per_channel",
        "reduce_range",
        "weight_type",
        "nodes_to_quantize",
        "nodes_to_exclude",
        "use_external_data_format",
        "extra_options",
    )
    if _is_a(quant_config, StaticQuantConfig):
        further = (
            "calibration_data_reader",
            "quant_format",
            "activation_type",
            "calibrate_method",
            "calibration_providers",
        )
        arguments = {name: getattr(quant_config, name) for name in (*common, *further)}
        quantize_static(model_input, model_output, **arguments)
    elif _is_a(quant_config, DynamicQuantConfig):
        quantize_dynamic(model_input, model_output, **{name: getattr(quant_config, name) for name in common})
    else:
        _quantize_weights(model_input, model_output, quant_config)


def _is_a(config: object, wanted: type) -> bool:
    """Whether a configuration is of a class, or of onnxruntime's of that name."""
    return any(base.__name__ == wanted.__name__ for base in type(config).__mro__)


def _quantize_weights(model_input: Any, model_output: str | PathLike[str], config: Any) -> None:
    from vqonnx.compat.matmul_nbits_quantizer import MatMulNBitsQuantizer, WeightOnlyQuantConfig

    if not _is_a(config, WeightOnlyQuantConfig):
        raise TypeError(
            f"quant_config is a {type(config).__name__}; pass a StaticQuantConfig, DynamicQuantConfig or "
            "WeightOnlyQuantConfig."
        )
    model = model_input if isinstance(model_input, onnx.ModelProto) else onnx.load(model_input)
    quantizer = MatMulNBitsQuantizer(model, algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(model_output, True)


def check_static_quant_arguments(quant_format: QuantFormat, activation_type: QuantType, weight_type: QuantType) -> None:
    """Refuse types that no kernel takes together.

    Raises:
        OptionError: int8 activations with uint8 weights, float8 on one side only, or 16 bits in QOperator form.
    """
    form, activation, weight = QuantFormat.of(quant_format), QuantType.of(activation_type), QuantType.of(weight_type)
    if activation is QuantType.QInt8 and weight is QuantType.QUInt8:
        raise _clash("int8 activations with uint8 weights have no kernels; take int8 weights", "weight_type")
    if (activation is QuantType.QFLOAT8E4M3FN) != (weight is QuantType.QFLOAT8E4M3FN):
        raise _clash("float8 must be the type of activations and weights, or of neither", "weight_type")
    if (activation in _SIXTEEN_BITS or weight in _SIXTEEN_BITS) and form is not QuantFormat.QDQ:
        raise _clash("only QuantFormat.QDQ has 16-bit types", "quant_format")
    if activation is weight is QuantType.QInt8 and form is not QuantFormat.QDQ:
        logging.getLogger("vqonnx").warning("int8 activations in QOperator form are slow on x86; take QuantFormat.QDQ.")


def _clash(text: str, option: str) -> OptionError:
    return OptionError(f"{option}: {text}.", option=option)


def _strided(reader: Any, stride: object) -> Iterator[Feed]:
    """All feeds of a reader with ``set_range``, that many at a time."""
    if not isinstance(stride, int) or stride < 1:
        raise _clash(f"takes a whole number of samples, got {stride!r}", "CalibStridedMinMax")
    count = len(reader)
    if count % stride:
        raise _clash(f"{count} samples cannot be read {stride} at a time", "CalibStridedMinMax")
    for start in range(0, count, stride):
        reader.set_range(start_index=start, end_index=start + stride)
        while (feed := reader.get_next()) is not None:
            yield feed
