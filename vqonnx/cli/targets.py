"""``vqonnx targets``."""


def targets() -> None:
    """List the devices that can be quantized for."""
    from rich.table import Table

    from vqonnx.cli.output import stdout
    from vqonnx.runtime.machine import cpu_target_name
    from vqonnx.targets.registry import get_target, target_names

    table = Table(box=None, pad_edge=False)
    for title in ("target", "execution provider", "what it is"):
        table.add_column(title)
    table.add_row("cpu", "CPUExecutionProvider", f"this machine: {cpu_target_name()}")
    for name in target_names():
        target = get_target(name)
        table.add_row(name, target.provider, target.description)
    stdout().print(table)
