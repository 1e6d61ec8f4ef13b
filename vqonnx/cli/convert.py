"""``vqonnx convert``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Form(StrEnum):
    """What packed weights become."""

    QDQ = "qdq"
    MATMUL_NBITS = "matmul_nbits"


def convert(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model with packed weights, an .onnx file.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Where the converted model goes; may be MODEL.")],
    to: Annotated[
        Form,
        typer.Option(
            help="qdq: DequantizeLinear and MatMul, standard ONNX (opset 21) for every runtime; ONNX Runtime fuses "
            "them back. matmul_nbits: com.microsoft.MatMulNBits, which needs no fusion."
        ),
    ],
    accuracy_level: Annotated[
        int,
        typer.Option(
            min=0,
            max=4,
            help="MatMulNBits computes on 8-bit inputs at 4, in float32 at 1; 0 leaves it to the runtime. Below 4 only "
            "4-bit weights are fast.",
        ),
    ] = 4,
    load: Annotated[
        bool, typer.Option("--load/--no-load", help="Open the result in ONNX Runtime before it is saved.")
    ] = True,
) -> None:
    """Write packed weights in another form, without loss.

    Codes, scales and zero points stay what they are, bit by bit; the result is read back and compared before it
    replaces OUTPUT. Models of other tools are taken too. Embedding tables (GatherBlockQuantized) and code books
    (MatMulBnb4) have no other form and stay.
    """
    from vqonnx.api.convert import convert_weights
    from vqonnx.cli.output import stdout

    done = convert_weights(
        model, output, to=to.value, accuracy_level=accuracy_level, verify=True if load else "checker"
    )
    console = stdout()
    console.print(f"converted {len(done.nodes)} weights to {done.to}: {done.size / 1e6:,.1f} MB in {output}")
    for (op_type, reason), count in done.reasons.most_common():
        console.print(f"kept {count} x {op_type}: {reason}", markup=False)
    for note in done.notes:
        console.print(note, markup=False)
