"""``vqonnx compare``."""

from pathlib import Path
from typing import Annotated

import typer

from vqonnx.cli import options


def compare(
    float_model: options.ModelPath,
    quantized: Annotated[Path, typer.Argument(metavar="QUANTIZED", help="The model that was made from it.")],
    samples: Annotated[
        Path, typer.Option("--samples", metavar="FOLDER", help="Samples to run, as for [bold]quantize[/bold].")
    ],
    tensors: Annotated[
        bool, typer.Option("--tensors", help="Compare the tensors inside too, to find where error arises.")
    ] = False,
    provider: options.Providers = None,
) -> None:
    """Run two models beside each other and tell how far their outputs are apart.

    SQNR is signal to quantization noise: above 30 dB is close, below 10 dB is another model.
    """
    from vqonnx.calibration.model import model_inputs
    from vqonnx.calibration.readers import open_samples
    from vqonnx.cli.arguments import providers_of
    from vqonnx.cli.output import stdout
    from vqonnx.graph.io import load
    from vqonnx.progress import terminal_progress
    from vqonnx.report.text import output_table
    from vqonnx.stages.compare import compare, compare_tensors

    providers = providers_of(provider)
    measure = compare_tensors if tensors else compare
    with open_samples(samples, model_inputs(load(float_model))) as opened, terminal_progress() as progress:
        figures = measure(float_model, quantized, opened.all, providers=providers, progress=progress)
    stdout().print(output_table(figures, limit=len(figures)))
