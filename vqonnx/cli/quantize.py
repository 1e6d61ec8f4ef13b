"""``vqonnx quantize``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vqonnx.cli import options


class BiasCorrection(StrEnum):
    """When the mean error that quantization brings is taken out of the biases."""

    AUTO = "auto"
    ON = "on"
    FAST = "fast"
    OFF = "off"


def quantize(
    model: options.ModelPath,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Where the quantized model goes.")],
    calibration: Annotated[
        Path,
        typer.Option(
            "--calibration",
            metavar="FOLDER",
            help="Samples, one file each: .npz (one array an input), .npy or .pb (models with one input), or ONNX "
            "test_data_set folders. 50 to 200 samples like the real input are enough.",
        ),
    ],
    preset: options.Preset = None,
    target: options.TargetOrPreset = None,
    form: options.FormatOption = options.Format.QDQ,
    method: options.MethodOption = None,
    exclude: options.Exclude = None,
    nodes: options.Nodes = None,
    op_type: options.OpTypes = None,
    per_channel: options.PerChannel = None,
    activation_type: options.ActivationType = None,
    weight_type: options.WeightType = None,
    guard: Annotated[
        bool | None,
        typer.Option(
            "--guard/--no-guard",
            help="Put back to float what would collapse in integers. By default single tensors are looked at, and the "
            "model's outputs too unless the target wants all that it can run.",
            show_default=False,
        ),
    ] = None,
    bias_correction: Annotated[
        BiasCorrection,
        typer.Option(
            help="Take the mean error out of the biases; auto keeps it where held-back samples gain, fast computes it "
            "from the means of the inputs."
        ),
    ] = BiasCorrection.AUTO,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the statistics here; an interrupted run goes on from it."),
    ] = None,
    already_quantized: options.AlreadyQuantized = options.QuantizedParts.KEEP,
    provider: options.Providers = None,
    json: options.JsonFile = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no report and no progress.")] = False,
) -> None:
    """Quantize a float model to integers, with scales from calibration samples.

    The result is run beside the float model on samples that calibration did not see, and the report tells accuracy,
    size, speed, what became an integer kernel, and what stayed float and why. OUTPUT is written in one step, after
    the result has been verified.
    """
    from vqonnx.api.static import quantize_static
    from vqonnx.cli.arguments import PlanOptions, calibration_method, providers_of
    from vqonnx.cli.output import deliver
    from vqonnx.progress import silent

    asked = PlanOptions(
        preset=preset,
        target=target,
        form=form,
        exclude=exclude,
        nodes=nodes,
        op_types=op_type,
        per_channel=per_channel,
        activation_type=activation_type,
        weight_type=weight_type,
    )
    report = quantize_static(
        model,
        output,
        calibration,
        **asked.arguments(),
        calibrate_method=calibration_method(method),
        calibration_providers=providers_of(provider),
        already_quantized=already_quantized.value,
        calibration_cache_path=cache,
        guard=guard,
        bias_correction=bias_correction.value,
        progress=silent if quiet else None,
    )
    deliver(report, json, quiet=quiet)
