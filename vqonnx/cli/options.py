"""Options that several commands share. The names are plain strings: the library's own enumerations load numpy."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

_NODES = "Selecting nodes"
_NUMBERS = "Number formats"


class Method(StrEnum):
    """How the range of an activation is chosen; the values of ``vqonnx.core.spec.RangeMethod``."""

    MIN_MAX = "minmax"
    MEAN = "mean"
    MOVING_AVERAGE = "moving-average"
    PERCENTILE = "percentile"
    ENTROPY = "entropy"
    MSE = "mse"
    DISTRIBUTION = "distribution"
    PERCENTILE_MSE = "percentile-mse"
    LAYERWISE_PERCENTILE = "layerwise-percentile"
    MOST_COMMON = "most-common"


class ElementType(StrEnum):
    """Element types, by the names of ``vqonnx.core.qtype``; those behind uint16 are for AMD's NPU."""

    INT4 = "int4"
    UINT4 = "uint4"
    INT8 = "int8"
    UINT8 = "uint8"
    INT16 = "int16"
    UINT16 = "uint16"
    INT32 = "int32"
    UINT32 = "uint32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    FLOAT8E4M3FN = "float8e4m3fn"
    FLOAT8E5M2 = "float8e5m2"
    BFP16 = "bfp16"
    MX9 = "mx9"
    MX6 = "mx6"
    MX4 = "mx4"
    MXFP8_E4M3 = "mxfp8_e4m3"
    MXFP8_E5M2 = "mxfp8_e5m2"
    MXFP6_E3M2 = "mxfp6_e3m2"
    MXFP6_E2M3 = "mxfp6_e2m3"
    MXFP4_E2M1 = "mxfp4_e2m1"
    MXINT8 = "mxint8"


class Format(StrEnum):
    """How the quantized graph is written; the values of ``vqonnx.core.target.Form`` in lower case."""

    QDQ = "qdq"
    QOPERATOR = "qoperator"
    FIX_NEURON = "fixneuron"


FormatOption = Annotated[
    Format,
    typer.Option(
        "--format",
        help="qdq: QuantizeLinear and DequantizeLinear, for runtimes to fuse; qoperator: integer operators themselves "
        "(QLinearConv ...); fixneuron: Vitis AI's operator, for AMD's NPU.",
    ),
]


class QuantizedParts(StrEnum):
    """What becomes of a model that has quantized parts."""

    KEEP = "keep"
    REFUSE = "refuse"


AlreadyQuantized = Annotated[
    QuantizedParts,
    typer.Option(
        "--already-quantized",
        help="A model that has quantized parts: keep them and quantize the rest, or refuse it.",
    ),
]
ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="The float model, an .onnx file.")]
Target = Annotated[
    str,
    typer.Option(metavar="NAME", help="The device to quantize for; [bold]vqonnx targets[/bold] lists them."),
]
TargetOrPreset = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="NAME",
        help="The device to quantize for; [bold]vqonnx targets[/bold] lists them. By default the preset's, or this "
        "machine's CPU.",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A name for target, types and options; [bold]vqonnx presets[/bold] lists them. What else is given wins.",
    ),
]
MethodOption = Annotated[
    Method | None,
    typer.Option("--method", help="How the ranges of activations follow from the samples. By default vqonnx chooses."),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        metavar="PATTERN",
        rich_help_panel=_NODES,
        help="Leave these nodes float: a name, a glob ('*head*') or 're:' and a regular expression. Repeatable.",
    ),
]
Nodes = Annotated[
    list[str] | None,
    typer.Option(
        "--nodes",
        metavar="PATTERN",
        rich_help_panel=_NODES,
        help="Quantize no other nodes than these. Same patterns. Repeatable.",
    ),
]
OpTypes = Annotated[
    list[str] | None,
    typer.Option(
        "--op-type",
        metavar="OPERATOR",
        rich_help_panel=_NODES,
        help="Quantize no other operators than these (Conv, MatMul ...). Repeatable.",
    ),
]
PerChannel = Annotated[
    bool | None,
    typer.Option(
        "--per-channel/--per-tensor",
        rich_help_panel=_NUMBERS,
        help="One scale for each output channel of a weight, or one for all. Default: the target's choice.",
    ),
]
ActivationType = Annotated[
    ElementType | None,
    typer.Option(rich_help_panel=_NUMBERS, help="Type of activations. Default: the target's."),
]
WeightType = Annotated[
    ElementType | None,
    typer.Option(rich_help_panel=_NUMBERS, help="Type of weights. Default: the target's."),
]
Providers = Annotated[
    list[str] | None,
    typer.Option(
        "--provider",
        metavar="NAME",
        help="ONNX Runtime's execution provider, best first. Default: CPUExecutionProvider. Repeatable.",
    ),
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Also write everything to this JSON file.")
]
