"""The entry point ``vqonnx``: its commands, and how errors end."""

from typing import Annotated

import typer

from vqonnx.cli.compare import compare
from vqonnx.cli.convert import convert
from vqonnx.cli.dynamic import dynamic
from vqonnx.cli.group import ErrorsOnOneLine
from vqonnx.cli.plan import plan
from vqonnx.cli.presets import presets
from vqonnx.cli.quantize import quantize
from vqonnx.cli.targets import targets
from vqonnx.cli.weight_only import weight_only
from vqonnx.version import __version__

app = typer.Typer(
    name="vqonnx",
    cls=ErrorsOnOneLine,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Quantize ONNX models after training: float model and samples in, integer model and an honest report out.",
    epilog="Start with: [bold]vqonnx quantize model.onnx model.int8.onnx --calibration samples/[/bold]",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vqonnx {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave."),
    ] = False,
) -> None:
    """Options before the command; the help text stands at ``app``."""


app.command(
    epilog="Example: [bold]vqonnx quantize model.onnx model.int8.onnx --calibration samples/ "
    "--exclude '*head*' --json report.json[/bold]"
)(quantize)
app.command(epilog="Example: [bold]vqonnx dynamic model.onnx model.int8.onnx --exclude '*head*'[/bold]")(dynamic)
app.command(
    "weight-only",
    epilog="Examples: [bold]vqonnx weight-only llm.onnx llm.int4.onnx[/bold]; [bold]vqonnx weight-only llm.onnx "
    "llm.int4.onnx --algorithm gptq --calibration samples/ --op-type MatMul --op-type Gather --layer op:Gather:bits=8"
    "[/bold]",
)(weight_only)
app.command(epilog="Example: [bold]vqonnx plan model.onnx --target cpu-arm --exclude 're:.*attn.*'[/bold]")(plan)
app.command(epilog="Example: [bold]vqonnx compare model.onnx model.int8.onnx --samples samples/ --tensors[/bold]")(
    compare
)
app.command(epilog="Example: [bold]vqonnx convert llm.int4.onnx llm.qdq.onnx --to qdq[/bold]")(convert)
app.command()(targets)
app.command()(presets)


def main() -> None:
    """Run the command line; the exit code is 0, 2 for an error that vqonnx explains, 130 for Ctrl-C."""
    app()
