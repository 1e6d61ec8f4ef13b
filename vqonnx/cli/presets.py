"""``vqonnx presets``."""


def presets() -> None:
    """List the presets of [bold]quantize[/bold] and [bold]plan[/bold]."""
    from rich.table import Table

    from vqonnx.cli.output import stdout
    from vqonnx.targets.presets import PRESETS

    table = Table(box=None, pad_edge=False)
    for title in ("preset", "target", "what it is"):
        table.add_column(title)
    for preset in PRESETS.values():
        table.add_row(preset.name, preset.target, preset.description)
    stdout().print(table)
