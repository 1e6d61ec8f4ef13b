"""README's examples run as they stand: code blocks marked ``python run``, in order, each in a folder of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.sections import SECTIONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python run\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def test_there_are_examples_to_run() -> None:
    assert EXAMPLES


@pytest.mark.slow
@pytest.mark.parametrize("code", EXAMPLES, ids=lambda code: code.strip().splitlines()[-1][:40])
def test_example_runs(code: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_python_block_is_run() -> None:
    assert len(EXAMPLES) == len(re.findall(r"^```python", README, re.MULTILINE))


def test_measured_sections_are_marked_once() -> None:
    marked = re.findall(r"^<!-- bench:([\w-]+) -->$", README, re.MULTILINE)
    assert "models" in marked
    for section in marked:
        assert section in SECTIONS
        assert README.count(f"<!-- bench:{section} -->") == README.count(f"<!-- end of bench:{section} -->") == 1


@pytest.mark.parametrize("path", re.findall(r"`((?:tools|models|vqonnx|\.ci)/[\w./]*)`", README))
def test_named_files_exist(path: str) -> None:
    assert (ROOT / path).exists()
