"""Equal input gives equal bytes, in any process: slow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_hash_seed_and_the_processors_change_no_byte() -> None:
    runs = [("0", "all"), ("1", "all"), ("2", "one" if hasattr(os, "sched_setaffinity") else "all")]
    found = []
    for seed, processors in runs:
        paths = os.pathsep.join((str(ROOT), str(ROOT / "tools")))
        environment = os.environ | {"PYTHONPATH": paths, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-m", "tests.faults.digests", processors]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout))
    assert len(found[0]) == 11
    assert found[0] == found[1] == found[2]
