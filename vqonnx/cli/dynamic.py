"""``vqonnx dynamic``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vqonnx.cli import options


class WeightType(StrEnum):
    """Element types of weights in integer products."""

    INT8 = "int8"
    UINT8 = "uint8"


def dynamic(
    model: options.ModelPath,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Where the quantized model goes.")],
    target: options.Target = "cpu",
    weight_type: Annotated[WeightType, typer.Option(help="Type of weights.")] = WeightType.INT8,
    per_channel: options.PerChannel = None,
    reduce_range: Annotated[
        bool | None,
        typer.Option(
            "--reduce-range/--full-range", help="7-bit weights, or all 8 bits. Default: what the target needs."
        ),
    ] = None,
    exclude: options.Exclude = None,
    nodes: options.Nodes = None,
    op_type: options.OpTypes = None,
    samples: Annotated[
        Path | None,
        typer.Option(
            "--samples",
            metavar="FOLDER",
            help="Samples, as for [bold]quantize[/bold], on which the result is compared with the float model.",
        ),
    ] = None,
    already_quantized: options.AlreadyQuantized = options.QuantizedParts.KEEP,
    provider: options.Providers = None,
    json: options.JsonFile = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no report and no progress.")] = False,
) -> None:
    """Make weights int8, and quantize activations at run time; no samples are needed.

    MatMul, Gemm, LSTM and Attention run in integers; tables of Gather and weights of GRU and RNN are stored in 8 bits.
    Conv is left float unless named with --op-type, since its integer kernel is mostly slower. Every node that was
    written is run and compared before OUTPUT appears.
    """
    from vqonnx.api.dynamic import quantize_dynamic
    from vqonnx.cli.arguments import providers_of
    from vqonnx.cli.output import deliver
    from vqonnx.progress import silent
    from vqonnx.quantizers.types import QuantType

    report = quantize_dynamic(
        model,
        output,
        op_types_to_quantize=op_type,
        per_channel=per_channel,
        reduce_range=reduce_range,
        weight_type=QuantType.of(f"Q{weight_type.value}"),
        nodes_to_quantize=nodes,
        nodes_to_exclude=exclude,
        target=target,
        calibration=samples,
        already_quantized=already_quantized.value,
        providers=providers_of(provider),
        progress=silent if quiet else None,
    )
    deliver(report, json, quiet=quiet)
