"""Runs that are killed at any moment: slow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOMENTS = 50


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="a run that starts anew each time would spend it importing")
@pytest.mark.parametrize("flow", ["static", "weights"])
def test_a_killed_run_leaves_the_old_file_or_the_new_one(flow: str, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tools")))}
    command = [sys.executable, "-m", "tests.faults.killing", flow, str(tmp_path), str(MOMENTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["faults"] == [], done.stderr
    assert found["killed"] > MOMENTS / 5
    assert found["old"] + found["new"] == MOMENTS
