"""How the command line ends when something goes wrong: one line on stderr, never a traceback."""

import typer
from typer.core import TyperGroup

from vqonnx.errors import VqonnxError

ERROR, INTERRUPTED = 2, 130


class ErrorsOnOneLine(TyperGroup):
    """A group of commands that tells vqonnx's errors, and Ctrl-C, in one line; bugs keep their traceback."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except VqonnxError as error:
            text = " ".join(str(error).split())  # messages of ONNX Runtime have several lines
            typer.echo(f"vqonnx: error: {text}", err=True)
            raise typer.Exit(ERROR) from error
        except KeyboardInterrupt as error:
            typer.echo("vqonnx: interrupted, nothing was saved", err=True)
            raise typer.Exit(INTERRUPTED) from error
