"""Static quantization: quantize_static, and the plan that it would follow."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import onnx_ir as ir

from vqonnx.api.choices import LEVELS, chosen
from vqonnx.calibration.readers import Reader
from vqonnx.core.plan import Plan
from vqonnx.core.target import Form, Target
from vqonnx.errors import OptionError
from vqonnx.flows.job import Correction, Guard, StaticJob
from vqonnx.flows.kept import AlreadyQuantized, Left, keep_file, quantized_parts
from vqonnx.flows.static import adapted, quantize_file
from vqonnx.graph.io import ModelSource, load
from vqonnx.planning.rules import Pattern
from vqonnx.progress import Progress, terminal_progress
from vqonnx.quantizers.base import BaseQuantizer
from vqonnx.quantizers.inherited import with_inherited_scales
from vqonnx.quantizers.onnx_quantizer import ONNXQuantizer
from vqonnx.quantizers.options import QuantizerOptions, is_power_of_two, resolve_target
from vqonnx.quantizers.preparation import prepare_for
from vqonnx.quantizers.presets import with_preset
from vqonnx.quantizers.qdq_quantizer import QDQQuantizer
from vqonnx.quantizers.types import (
    CalibrationMethod,
    PowerOfTwoMethod,
    QuantFormat,
    QuantType,
    VitisQuantFormat,
    written_form,
)
from vqonnx.quantizers.vitis import VitisFixNeuronQuantizer, VitisONNXQuantizer, VitisQDQQuantizer
from vqonnx.report.model import Report
from vqonnx.stages.adapt import adapt_border
from vqonnx.stages.plan import make_plan

_QUANTIZERS: Mapping[tuple[str, Form], type[BaseQuantizer]] = {
    ("", Form.QDQ): QDQQuantizer,
    ("", Form.QOPERATOR): ONNXQuantizer,
    ("vitis", Form.QDQ): VitisQDQQuantizer,
    ("vitis", Form.QOPERATOR): VitisONNXQuantizer,
    ("vitis", Form.FIX_NEURON): VitisFixNeuronQuantizer,
}
"""By family of the target and form."""
_GUARD: Mapping[object, Guard] = {True: Guard.OUTPUTS, False: Guard.OFF}
_USUAL_GUARD = {True: Guard.TENSORS, False: Guard.OUTPUTS}
"""By whether the target wants all that it can run."""
_CORRECTION: Mapping[object, Correction] = {
    **{c.value: c for c in Correction},
    True: Correction.ON,
    False: Correction.OFF,
}


def quantize_static(
    model_input: ModelSource,
    model_output: str | PathLike[str],
    calibration_data_reader: Reader | None = None,
    quant_format: QuantFormat | VitisQuantFormat | None = None,
    op_types_to_quantize: Sequence[str] | None = None,
    per_channel: bool | None = None,
    reduce_range: bool | None = None,
    activation_type: QuantType | None = None,
    weight_type: QuantType | None = None,
    nodes_to_quantize: Sequence[Pattern] | None = None,
    nodes_to_exclude: Sequence[Pattern] | None = None,
    use_external_data_format: bool | None = None,
    calibrate_method: CalibrationMethod | PowerOfTwoMethod | None = None,
    calibration_providers: Sequence[str] | None = None,
    extra_options: Mapping[str, object] | None = None,
    calibration_cache_path: str | PathLike[str] | None = None,
    *,
    preset: str | None = None,
    target: Target | str | None = None,
    quantized_tensor_type: Mapping[str, QuantType] | None = None,
    equalize: bool = True,
    guard: bool | None = None,
    bias_correction: Literal["auto", "on", "fast", "off"] | bool = "auto",
    min_sqnr_db: float = 10.0,
    verify: bool | Literal["checker"] = True,
    quantizer: type[BaseQuantizer] | None = None,
    already_quantized: AlreadyQuantized = "keep",
    executor: Executor | None = None,
    progress: Progress | None = None,
) -> Report:
    """Quantize weights and activations to integers, with ranges from running calibration samples.

    The model may be a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``; neither it nor its folder is changed,
    and input and output may be the same path. The result is written only after it has been loaded and run.

    Args:
        model_input: The float model.
        model_output: Where the quantized model is written.
        calibration_data_reader: Feeds (dicts of arrays by input name): any iterable, a CalibrationDataReader, or a
            folder of .npz, .npy or .pb samples. Every 8th is held back for verification.
        quant_format: QDQ (QuantizeLinear and DequantizeLinear, which runtimes fuse), QOperator (integer operators) or,
            for AMD's NPU, ``VitisQuantFormat.FixNeuron``; that of ``quantizer``, and QDQ without one, by default.
        op_types_to_quantize: Operators to quantize; all that the target runs in integers by default.
        per_channel: One scale an output channel for weights; the target chooses by default.
        reduce_range: 7-bit weights; the target chooses by default.
        activation_type: Element type of activations; the target chooses by default.
        weight_type: Element type of weights; the target chooses by default.
        nodes_to_quantize: Names, globs, "re:" patterns or predicates of nodes; all by default.
        nodes_to_exclude: The same, of nodes to leave float.
        use_external_data_format: Write tensors into a data file beside the model; by default where the float model has
            one, or the result is large.
        calibrate_method: How ranges are chosen; the least squared error by default. A ``PowerOfTwoMethod`` makes scales
            powers of two, and the classes for AMD's NPU write the model.
        calibration_providers: Execution providers of all sessions; the CPU by default.
        extra_options: See ``quantizers.extra_options``.
        calibration_cache_path: File that keeps the statistics; an interrupted run resumes from it.
        preset: A name for target, types and options (``vqonnx presets`` lists them); what is given besides wins.
        target: The device: a name (``vqonnx targets`` lists them), or a ``Target``; this machine's CPU by default.
        quantized_tensor_type: Element types of single tensors, by name; whoever reads one reads it in its type.
        equalize: Scale the channels of residual streams alike first, which leaves the float model what it is.
        guard: Leave float what would collapse, and say so in the report. By default single tensors are looked at, and
            the model's outputs too unless the target wants all that it can run; True always looks at both.
        bias_correction: "auto" measures the shifted means layer after layer and keeps the correction where it helps on
            held-back samples; "on" keeps it always; "fast" computes it from the means of the inputs; or "off".
        min_sqnr_db: An output below this counts as collapsed.
        verify: True compares with the float model; False only loads the result; "checker" writes what no present
            provider can run.
        quantizer: The class that decides every number; subclass QDQQuantizer or ONNXQuantizer for a device of your own.
        already_quantized: What becomes of a model that has quantized parts: "keep" leaves these as they are and
            quantizes the rest, going on with their codes; where nothing is left, the model is written as it came.
            "refuse" raises.
        executor: Spreads calibration samples over its threads or processes.
        progress: Told how far each stage is; by default bars on a terminal, and silence elsewhere.

    Returns:
        What was quantized, what not and why, how good, small and fast the result is.

    Raises:
        OptionError: An argument makes no sense, or a name matches nothing.
        ModelError: The model cannot be read, or not be quantized as asked.
        SampleError: A sample does not fit the model, or is not finite.
        OutputError: The output cannot be written.
        VerificationError: The result does not load or run; nothing was written.
    """
    asked = with_preset(
        preset,
        target=target,
        activation_type=activation_type,
        weight_type=weight_type,
        per_channel=per_channel,
        extra_options=extra_options,
    )
    activation_type, weight_type, per_channel = asked.activation_type, asked.weight_type, asked.per_channel
    extra_options = asked.extra_options
    quantizer = _quantizer(quant_format, quantizer, asked.target, calibrate_method)
    if calibration_data_reader is None:
        raise OptionError(
            "calibration_data_reader is missing: static quantization needs samples. Pass an iterable of feeds or a "
            "folder of .npz files.",
            option="calibration_data_reader",
        )
    if asked.target is not None:
        extra_options = {**(extra_options or {}), "Target": asked.target}
    options_with = partial(
        QuantizerOptions.of,
        form=quantizer.form,
        target=quantizer.target,
        per_channel=per_channel,
        reduce_range=reduce_range,
        weight_type=weight_type,
        activation_type=activation_type,
        nodes_to_quantize=nodes_to_quantize,
        nodes_to_exclude=nodes_to_exclude,
        op_types_to_quantize=op_types_to_quantize,
        calibrate_method=calibrate_method,
        tensor_types=quantized_tensor_type,
    )
    options = options_with(extra_options=extra_options)
    came = load(model_input)
    was_quantized = bool(quantized_parts(came, already_quantized))
    if was_quantized and not options.target.positions:
        extra_options = with_inherited_scales(extra_options, came, options.rules.activation.qtype)
        options = options_with(extra_options=extra_options)
    make = partial(
        quantizer,
        per_channel=per_channel,
        reduce_range=reduce_range,
        weight_qType=weight_type,
        activation_qType=activation_type,
        tensors_range=None,
        nodes_to_quantize=nodes_to_quantize,
        nodes_to_exclude=nodes_to_exclude,
        op_types_to_quantize=op_types_to_quantize,
        extra_options=extra_options,
        **_where_given(calibrate_method=calibrate_method, quantized_tensor_type=quantized_tensor_type),
    )
    with ExitStack() as stack:
        job = StaticJob(
            make=make,
            options=options,
            equalize=equalize,
            guard=_USUAL_GUARD[options.target.everything] if guard is None else chosen(_GUARD, guard, "guard"),
            correction=chosen(_CORRECTION, bias_correction, "bias_correction"),
            min_sqnr_db=min_sqnr_db,
            level=chosen(LEVELS, verify, "verify"),
            providers=tuple(calibration_providers or ("CPUExecutionProvider",)),
            executor=executor,
            cache=Path(calibration_cache_path) if calibration_cache_path is not None else None,
            external=use_external_data_format or None,
            progress=progress if progress is not None else stack.enter_context(terminal_progress()),
        )
        left = _planned(came, options) if was_quantized and not _changes_float(options) else None
        if left is None or left.nodes:
            return quantize_file(model_input, Path(model_output), calibration_data_reader, job)
        return keep_file(model_input, Path(model_output), calibration_data_reader, Left(left.target, left.skips), job)


def _changes_float(options: QuantizerOptions) -> bool:
    """Whether the float model is to become another one, whatever is quantized in it."""
    return options.adaptation.changes_border or options.smoothing is not None


def _where_given(**arguments: Any) -> dict[str, Any]:
    """The arguments that are not None: a subclass's constructor may lack what its caller does not use."""
    return {name: value for name, value in arguments.items() if value is not None}


def _quantizer(
    quant_format: QuantFormat | VitisQuantFormat | None,
    given: type[BaseQuantizer] | None,
    target: Target | str | None,
    method: object,
) -> type[BaseQuantizer]:
    """The class that was given, or that of format and target; all may be named if they agree."""
    family = resolve_target(target).family if target is not None else "vitis" * is_power_of_two(method)
    if quant_format is None:
        return given or _QUANTIZERS[family, Form.QDQ]
    form = written_form(quant_format)
    if form is Form.FIX_NEURON:
        family = "vitis"  # what a target of another family has to say of it comes with the plan
    found = given or _QUANTIZERS[family, form]
    if found.form is not form:
        raise OptionError(
            f"quant_format: {found.__name__} writes the {found.form.value} form, not {form.value}. Leave "
            f"quant_format out, or subclass {_QUANTIZERS[family, form].__name__}.",
            option="quant_format",
        )
    return found


def plan(
    model_input: ModelSource,
    *,
    op_types_to_quantize: Sequence[str] | None = None,
    per_channel: bool | None = None,
    reduce_range: bool | None = None,
    activation_type: QuantType | None = None,
    weight_type: QuantType | None = None,
    nodes_to_quantize: Sequence[Pattern] | None = None,
    nodes_to_exclude: Sequence[Pattern] | None = None,
    extra_options: Mapping[str, object] | None = None,
    target: Target | str | None = None,
    quant_format: QuantFormat | VitisQuantFormat | None = None,
    preset: str | None = None,
) -> Plan:
    """What ``quantize_static`` would quantize, what not, and why; without samples, and without the guard's findings.

    The arguments are those of ``quantize_static``.
    """
    model = load(model_input)
    asked = with_preset(
        preset,
        target=target,
        activation_type=activation_type,
        weight_type=weight_type,
        per_channel=per_channel,
        extra_options=extra_options,
    )
    quantizer = _quantizer(quant_format, None, asked.target, None)
    options = QuantizerOptions.of(
        form=quantizer.form,
        target=asked.target if asked.target is not None else quantizer.target,
        per_channel=asked.per_channel,
        reduce_range=reduce_range,
        weight_type=asked.weight_type,
        activation_type=asked.activation_type,
        nodes_to_quantize=nodes_to_quantize,
        nodes_to_exclude=nodes_to_exclude,
        op_types_to_quantize=op_types_to_quantize,
        extra_options=asked.extra_options,
    )
    return _planned(model, options)


def _planned(model: ir.Model, options: QuantizerOptions) -> Plan:
    """The plan for a private model, which is prepared in place."""
    adapt_border(model, options.adaptation)
    prepared = prepare_for(model, options)
    _, _, inside = adapted(prepared, options)
    return make_plan(prepared.model, options.target, options.rules.without(inside), prepared.folded)
