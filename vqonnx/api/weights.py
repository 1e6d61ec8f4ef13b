"""``quantize_weight_only``: packed weights, float activations."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Literal, TypeAlias

from vqonnx.api.choices import LEVELS, chosen
from vqonnx.calibration.readers import Reader
from vqonnx.core.blocks import PER_CHANNEL, BlockSpec
from vqonnx.core.weight_plan import CODEBOOKS, CodebookSpec, WeightForm
from vqonnx.errors import OptionError, nearest
from vqonnx.flows.kept import AlreadyQuantized
from vqonnx.flows.packing import WeightOnlyJob
from vqonnx.flows.weight_only import pack_file
from vqonnx.graph.io import ModelSource
from vqonnx.planning.rules import Pattern, Selection
from vqonnx.planning.weights.rules import LayerOverride, WeightRules
from vqonnx.progress import Progress, terminal_progress
from vqonnx.report.model import Report

Format: TypeAlias = Literal["matmul_nbits", "qdq", "nf4", "fp4", "channel_qdq"]


def quantize_weight_only(
    model_input: ModelSource,
    model_output: str | PathLike[str],
    *,
    algorithm: str = "rtn",
    bits: int | None = None,
    block_size: int | None = None,
    symmetric: bool = False,
    calibration: Reader | None = None,
    format: Format = "matmul_nbits",
    accuracy_level: int = 4,
    op_types_to_quantize: Sequence[str] | None = None,
    nodes_to_quantize: Sequence[Pattern] | None = None,
    nodes_to_exclude: Sequence[Pattern] | None = None,
    layers: Mapping[Pattern, Mapping[str, object]] | None = None,
    last_matmul: bool = True,
    algorithm_options: Mapping[str, object] | None = None,
    inputs: Literal["quantized", "float"] = "quantized",
    requantize: bool = False,
    use_external_data_format: bool | None = None,
    verify: bool | Literal["checker"] = True,
    min_sqnr_db: float = 10.0,
    providers: Sequence[str] | None = None,
    already_quantized: AlreadyQuantized = "keep",
    progress: Progress | None = None,
) -> Report:
    """Pack weights into 2, 4 or 8 bits and leave activations float; made for language models.

    Weights stay in their file and are solved one at a time, so the model may be larger than memory. What is solved is
    kept in ``.<output>.work`` beside the output until that is complete: an interrupted run goes on there when it is
    asked for the same again, with the same result. Neither the caller's model nor its folder is changed.

    Args:
        model_input: The float model: a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``.
        model_output: Where the packed model is written.
        algorithm: How codes are chosen: "rtn", "clip_search", "scale_search", "hqq" without samples; "gptq", "awq",
            "auto" with them. None is ever kept where it is worse than round-to-nearest on held-back samples.
        bits: 2, 4 or 8 bits a weight; 4 by default.
        block_size: Weights along K that share a scale: 16 to 256, or -1 for a whole output channel (format "qdq").
            32 by default, 64 for code books.
        symmetric: Whether every zero point is the middle code.
        calibration: Feeds, as for ``quantize_static``; every 8th is held back.
        format: "matmul_nbits" (com.microsoft.MatMulNBits), "qdq" (DequantizeLinear with blocks, opset 21), "nf4" or
            "fp4" (com.microsoft.MatMulBnb4), or "channel_qdq" (int8, one scale an output channel).
        accuracy_level: MatMulNBits' attribute: 4 computes on 8-bit inputs, 1 in float32, 0 leaves it to the runtime.
        op_types_to_quantize: MatMul and Gemm by default; Gather (embedding tables) and Conv (1x1) on request.
        nodes_to_quantize: Names, globs, "re:" patterns or predicates of nodes; all by default.
        nodes_to_exclude: The same, of nodes to leave float.
        layers: What is different for some layers, by pattern or "op:Gather": bits, block_size, symmetric, algorithm.
            The last pattern that fits wins.
        last_matmul: Whether the product nearest to the outputs (a language model's head) is packed too.
        algorithm_options: Options of the algorithm, such as {"damping": 0.05}.
        inputs: Whether layers learn from what the packed layers before them give, or from the float model.
        requantize: Pack weights anew that stand behind a DequantizeLinear.
        use_external_data_format: Write tensors into a data file beside the model; by default where the float model has
            one, or the result is large.
        verify: True runs each written layer, and the whole model where samples are there and memory is; False only
            loads the result; "checker" writes what no present provider can run.
        min_sqnr_db: An output below this is warned about.
        providers: Execution providers of all sessions; the CPU by default.
        already_quantized: What becomes of a model that has quantized parts: "keep" leaves these as they are and
            quantizes the rest; where nothing is left, the model is written as it came. "refuse" raises.
        progress: Told how far each stage is; by default bars on a terminal, and silence elsewhere.

    Returns:
        What was packed, what not and why, how good each weight is, and how small the result.

    Raises:
        OptionError: An argument makes no sense, or a name matches nothing.
        ModelError: The model cannot be read, or not be packed as asked.
        SampleError: A sample does not fit the model, or is not finite.
        QuantRangeError: A weight holds NaN or infinity; it is named.
        OutputError: The output cannot be written.
        VerificationError: The result does not load, or a layer computes something else; nothing was written.
    """
    form, spec = _weight_form(format, bits, block_size, symmetric)
    if inputs not in ("quantized", "float"):
        raise OptionError(f"inputs: {inputs!r} is none of 'quantized', 'float'.", option="inputs")
    rules = WeightRules(
        form=form,
        spec=spec,
        algorithm=algorithm,
        selection=Selection(
            nodes=tuple(nodes_to_quantize or ()),
            exclude=tuple(nodes_to_exclude or ()),
            op_types=tuple(op_types_to_quantize or ()),
        ),
        layers={pattern: LayerOverride.parse(fixed) for pattern, fixed in (layers or {}).items()},
        last_matmul=last_matmul,
        accuracy_level=accuracy_level,
    )
    with ExitStack() as stack:
        job = WeightOnlyJob(
            rules=rules,
            options=dict(algorithm_options or {}),
            inputs=inputs,
            requantize=requantize,
            level=chosen(LEVELS, verify, "verify"),
            providers=tuple(providers or ("CPUExecutionProvider",)),
            external=use_external_data_format,
            min_sqnr_db=min_sqnr_db,
            already_quantized=already_quantized,
            progress=progress if progress is not None else stack.enter_context(terminal_progress()),
        )
        return pack_file(model_input, Path(model_output), calibration, job)


def _weight_form(
    format: str, bits: int | None, block_size: int | None, symmetric: bool
) -> tuple[WeightForm, BlockSpec | CodebookSpec]:
    """The form, and what of bits and blocks it leaves open."""
    if format in CODEBOOKS:
        if bits not in (None, 4) or symmetric:
            raise OptionError(f"format {format!r} is a code book of 4 bits without zero points", option="bits")
        return WeightForm.BNB4, CodebookSpec(book=format, block_size=block_size or 64)
    forms = {form.value: form for form in WeightForm if form is not WeightForm.BNB4}
    if format not in forms:
        known = (*forms, *CODEBOOKS)
        raise OptionError(
            f"format: {format!r} is none of {', '.join(map(repr, known))}{nearest(str(format), known)}.",
            option="format",
        )
    if forms[format] is WeightForm.CHANNEL_QDQ:
        return WeightForm.CHANNEL_QDQ, BlockSpec(bits=bits or 8, block_size=block_size or PER_CHANNEL, symmetric=True)
    return forms[format], BlockSpec(bits=bits or 4, block_size=block_size or 32, symmetric=symmetric)
