"""``quantize_dynamic``: integer weights, activations quantized at run time."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Literal

from vqonnx.api.choices import LEVELS, chosen
from vqonnx.calibration.readers import Reader
from vqonnx.core.target import Target
from vqonnx.flows.dynamic import DynamicJob, quantize_file
from vqonnx.flows.kept import AlreadyQuantized
from vqonnx.graph.io import ModelSource
from vqonnx.planning.rules import Pattern
from vqonnx.progress import Progress, terminal_progress
from vqonnx.quantizers.dynamic_options import dynamic_rules
from vqonnx.quantizers.types import QuantType
from vqonnx.report.model import Report


def quantize_dynamic(
    model_input: ModelSource,
    model_output: str | PathLike[str],
    op_types_to_quantize: Sequence[str] | None = None,
    per_channel: bool | None = None,
    reduce_range: bool | None = None,
    weight_type: QuantType | None = QuantType.QInt8,
    nodes_to_quantize: Sequence[Pattern] | None = None,
    nodes_to_exclude: Sequence[Pattern] | None = None,
    use_external_data_format: bool | None = None,
    extra_options: Mapping[str, object] | None = None,
    *,
    target: Target | str | None = None,
    calibration: Reader | None = None,
    verify: bool | Literal["checker"] = True,
    min_sqnr_db: float = 10.0,
    providers: Sequence[str] | None = None,
    already_quantized: AlreadyQuantized = "keep",
    progress: Progress | None = None,
) -> Report:
    """Make weights integer, and let the runtime find the ranges of activations in each run; no samples are needed.

    MatMul and Gemm become integer products, LSTM and com.microsoft's Attention their integer operators; tables of
    Gather and the weights of GRU and RNN are stored as integers and dequantized. Weights stay in their file and are
    rounded one at a time, so the model may be larger than memory. Neither the caller's model nor its folder is
    changed, and input and output may be the same path.

    Args:
        model_input: The float model: a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``.
        model_output: Where the quantized model is written.
        op_types_to_quantize: Operators to quantize; all that have a dynamic form but Conv by default, whose
            ConvInteger is mostly slower than float.
        per_channel: One scale an output channel for weights; the target chooses by default.
        reduce_range: 7-bit weights; the target chooses by default.
        weight_type: QInt8 or QUInt8.
        nodes_to_quantize: Names, globs, "re:" patterns or predicates of nodes; all by default.
        nodes_to_exclude: The same, of nodes to leave float.
        use_external_data_format: Write tensors into a data file beside the model; by default where the float model has
            one, or the result is large.
        extra_options: See ``quantizers.dynamic_options``.
        target: The device: a name (``vqonnx targets`` lists them), or a ``Target``; this machine's CPU by default.
        calibration: Feeds, as for ``quantize_static``; every 8th is run through both models, the others are not needed.
        verify: True runs each written node beside the float one, and the whole model where samples are there and
            memory is; False only loads the result; "checker" writes what no present provider can run.
        min_sqnr_db: An output below this is warned about.
        providers: Execution providers of the sessions over the whole model; the CPU by default.
        already_quantized: What becomes of a model that has quantized parts: "keep" leaves these as they are and
            quantizes the rest; where nothing is left, the model is written as it came. "refuse" raises.
        progress: Told how far each stage is; by default bars on a terminal, and silence elsewhere.

    Returns:
        What was quantized, what not and why, how good each weight is, and how small the result.

    Raises:
        OptionError: An argument makes no sense, or a name matches nothing.
        ModelError: The model cannot be read, or its opset not be raised.
        SampleError: A sample does not fit the model, or is not finite.
        QuantRangeError: A weight holds NaN or infinity; it is named.
        OutputError: The output cannot be written.
        VerificationError: The result does not load, or a node computes something else; nothing was written.
    """
    level = chosen(LEVELS, verify, "verify")
    rules = dynamic_rules(
        target=target,
        weight_type=weight_type,
        per_channel=per_channel,
        reduce_range=reduce_range,
        op_types_to_quantize=op_types_to_quantize,
        nodes_to_quantize=nodes_to_quantize,
        nodes_to_exclude=nodes_to_exclude,
        extra_options=extra_options,
    )
    with ExitStack() as stack:
        job = DynamicJob(
            rules=rules,
            level=level,
            providers=tuple(providers or ("CPUExecutionProvider",)),
            external=use_external_data_format,
            min_sqnr_db=min_sqnr_db,
            already_quantized=already_quantized,
            progress=progress if progress is not None else stack.enter_context(terminal_progress()),
        )
        return quantize_file(model_input, Path(model_output), calibration, job)
