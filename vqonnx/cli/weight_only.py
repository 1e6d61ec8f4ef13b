"""``vqonnx weight-only``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from vqonnx.cli import options

_FORM = "Form of the weights"
_DATA = "Samples"


class Form(StrEnum):
    """What packed weights become."""

    MATMUL_NBITS = "matmul_nbits"
    QDQ = "qdq"
    NF4 = "nf4"
    FP4 = "fp4"
    CHANNEL_QDQ = "channel_qdq"


class Inputs(StrEnum):
    """Whose activations a calibrated algorithm sees."""

    QUANTIZED = "quantized"
    FLOAT = "float"


class Verify(StrEnum):
    """How far the result is verified."""

    FULL = "full"
    LOAD = "load"
    CHECKER = "checker"

    @property
    def argument(self) -> bool | Literal["checker"]:
        """What ``quantize_weight_only`` calls it."""
        return "checker" if self is Verify.CHECKER else self is Verify.FULL


def weight_only(
    model: options.ModelPath,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Where the packed model goes.")],
    algorithm: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="How codes are chosen. Without samples: rtn (fastest), scale_search, clip_search, hqq. With samples "
            "too: gptq (best), awq, auto (the best of the cheap ones for each layer).",
        ),
    ] = "rtn",
    bits: Annotated[
        int | None, typer.Option(rich_help_panel=_FORM, help="2, 4 or 8 bits a weight; 4 by default.")
    ] = None,
    block_size: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_FORM,
            help="Weights that share a scale: 16, 32, 64, 128 or 256; 32 by default. "
            "Smaller is more accurate and larger in bytes.",
        ),
    ] = None,
    symmetric: Annotated[
        bool,
        typer.Option(
            "--symmetric/--asymmetric",
            rich_help_panel=_FORM,
            help="One zero point for all blocks, or one each (more accurate, a little larger).",
        ),
    ] = False,
    form: Annotated[
        Form,
        typer.Option(
            "--format",
            rich_help_panel=_FORM,
            help="matmul_nbits: ONNX Runtime's kernel. qdq: standard ONNX (opset 21) that it fuses to the same kernel. "
            "nf4, fp4: code books of 16 values. channel_qdq: int8, one scale an output channel.",
        ),
    ] = Form.MATMUL_NBITS,
    accuracy_level: Annotated[
        int,
        typer.Option(
            rich_help_panel=_FORM, min=0, max=4, help="4: 8-bit inputs inside the product, fastest; 1: float."
        ),
    ] = 4,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="FOLDER",
            rich_help_panel=_DATA,
            help="Samples, as for [bold]quantize[/bold]; gptq, awq and auto learn from them. 32 to 128 are enough.",
        ),
    ] = None,
    inputs: Annotated[
        Inputs,
        typer.Option(
            rich_help_panel=_DATA,
            help="Layers learn from the inputs that the quantized layers before them give, or from the float model's.",
        ),
    ] = Inputs.QUANTIZED,
    exclude: options.Exclude = None,
    nodes: options.Nodes = None,
    op_type: options.OpTypes = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            "--layer",
            metavar="PATTERN:KEY=VALUE,...",
            rich_help_panel="Selecting nodes",
            help="Other numbers for some layers: '*down_proj*:bits=8,block_size=64' or 'op:Gather:bits=8'. Keys: bits, "
            "block_size, symmetric, algorithm. Repeatable; the last that fits counts.",
        ),
    ] = None,
    last_matmul: Annotated[
        bool,
        typer.Option(
            "--last-matmul/--no-last-matmul",
            rich_help_panel="Selecting nodes",
            help="Whether the product nearest to the outputs (a language model's head) is packed too.",
        ),
    ] = True,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", metavar="KEY=VALUE", help="An option of the algorithm, such as damping=0.05. Repeatable."
        ),
    ] = None,
    requantize: Annotated[
        bool, typer.Option("--requantize", help="Pack weights anew that stand behind a DequantizeLinear.")
    ] = False,
    verify: Annotated[
        Verify,
        typer.Option(
            help="full: run every written layer, and with samples the whole model; load: only open the result; "
            "checker: write what no provider here can run."
        ),
    ] = Verify.FULL,
    already_quantized: options.AlreadyQuantized = options.QuantizedParts.KEEP,
    provider: options.Providers = None,
    json: options.JsonFile = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no report and no progress.")] = False,
) -> None:
    """Pack the weights of MatMul and Gemm (and, on request, Gather and 1x1 Conv) into 2, 4 or 8 bits.

    Activations stay float, so no samples are needed; with samples the weights get better. Weights are read and solved
    one at a time: a model larger than memory is no problem. An interrupted run goes on where it stopped when the same
    command is given again. Every layer that was written is run and compared before OUTPUT appears.
    """
    from vqonnx.api.weights import quantize_weight_only
    from vqonnx.cli.arguments import key_values, layer_settings, providers_of
    from vqonnx.cli.output import deliver
    from vqonnx.progress import silent

    report = quantize_weight_only(
        model,
        output,
        algorithm=algorithm,
        bits=bits,
        block_size=block_size,
        symmetric=symmetric,
        calibration=calibration,
        format=form.value,
        accuracy_level=accuracy_level,
        inputs=inputs.value,
        nodes_to_exclude=exclude,
        nodes_to_quantize=nodes,
        op_types_to_quantize=op_type,
        layers=layer_settings(layer),
        last_matmul=last_matmul,
        algorithm_options=key_values(option),
        requantize=requantize,
        verify=verify.argument,
        already_quantized=already_quantized.value,
        providers=providers_of(provider),
        progress=silent if quiet else None,
    )
    deliver(report, json, quiet=quiet)
