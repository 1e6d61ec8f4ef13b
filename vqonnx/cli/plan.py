"""``vqonnx plan``."""

from vqonnx.cli import options


def plan(
    model: options.ModelPath,
    preset: options.Preset = None,
    target: options.TargetOrPreset = None,
    form: options.FormatOption = options.Format.QDQ,
    exclude: options.Exclude = None,
    nodes: options.Nodes = None,
    op_type: options.OpTypes = None,
    per_channel: options.PerChannel = None,
    activation_type: options.ActivationType = None,
    weight_type: options.WeightType = None,
    json: options.JsonFile = None,
) -> None:
    """Show what would be quantized and how, what would stay float, and why.

    Nothing is run and nothing is written; no samples are needed. The accuracy guard of [bold]quantize[/bold], which
    measures, may leave further nodes float.
    """
    from vqonnx.api.static import plan as make_plan
    from vqonnx.cli.arguments import PlanOptions
    from vqonnx.cli.output import stdout, write_text
    from vqonnx.report.plan import plan_json, print_plan

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
    planned = make_plan(model, **asked.arguments())
    if json is not None:
        write_text(json, plan_json(planned))
    print_plan(planned, stdout())
