"""How far a long stage is: a callable that hosts pass in, silent by default."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO


class Progress(Protocol):
    """Called by the stages, always from the thread that started the run."""

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Tell that ``done`` of ``total`` steps of ``stage`` are finished; a total of None is not known yet."""


def silent(stage: str, done: int, total: int | None) -> None:
    """Show nothing."""


@contextmanager
def terminal_progress(stream: TextIO | None = None) -> Iterator[Progress]:
    """Bars on ``stream`` (standard error) when it is a terminal, one a stage; silence otherwise."""
    stream = sys.stderr if stream is None else stream
    if not stream.isatty():
        yield silent
        return
    from rich.console import Console  # here, because a library that draws nothing should not load it
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    tasks: dict[str, TaskID] = {}
    with Bars(console=Console(file=stream)) as bars:

        def show(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield show
