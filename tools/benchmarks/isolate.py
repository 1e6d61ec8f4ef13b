"""Runs one job in a fresh process and returns what it measured."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parent.parent
_PATIENCE_SECONDS = 1800
_REASON_LENGTH = 160


@dataclass(frozen=True, slots=True)
class Failure:
    """A job that did not finish; the reason is its last error, or how it ended."""

    reason: str


def run(job: str, **arguments: Any) -> dict[str, Any] | Failure:
    """Run a job of ``benchmarks.worker``; arguments and result are JSON."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "benchmarks.worker", job, str(result)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(TOOLS), str(TOOLS.parent)))}
        text = json.dumps(arguments, default=str)
        try:
            done = subprocess.run(
                command,
                input=text,
                text=True,
                capture_output=True,
                env=environment,
                timeout=_PATIENCE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return Failure(f"no result within {_PATIENCE_SECONDS} s")
        if done.returncode or not result.exists():
            return Failure(_reason(done.returncode, done.stderr))
        measured: dict[str, Any] = json.loads(result.read_text())
        return measured


def _reason(status: int, stderr: str) -> str:
    """The exception that ended the process: the last unindented line of its standard error that is no warning."""
    if status < 0:
        return f"ended by signal {-status}"
    lines = [line for line in stderr.splitlines() if line[:1].isalpha() and not line.startswith("WARNING")]
    return lines[-1][:_REASON_LENGTH] if lines else f"exit status {status}"
