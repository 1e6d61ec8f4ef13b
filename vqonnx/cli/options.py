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
    """Integer element types, by their ONNX names."""

    INT4 = "int4"
    UINT4 = "uint4"
    INT8 = "int8"
    UINT8 = "uint8"
    INT16 = "int16"
    UINT16 = "uint16"


class Format(StrEnum):
    """How the quantized graph is written; the values of ``vqonnx.core.target.Form`` in lower case."""

    QDQ = "qdq"
    QOPERATOR = "qoperator"


FormatOption = Annotated[
    Format,
    typer.Option(
        "--format",
        help="qdq: QuantizeLinear and DequantizeLinear, for runtimes to fuse; qoperator: integer operators themselves "
        "(QLinearConv ...).",
    ),
]
ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="The float model, an .onnx file.")]
Target = Annotated[
    str,
    typer.Option(metavar="NAME", help="The device to quantize for; [bold]vqonnx targets[/bold] lists them."),
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
