import subprocess
import sys

import pytest

from vqonnx.errors import OutputError
from vqonnx.graph.lock import hold


def test_a_lock_is_held_until_its_file_is_closed(tmp_path):
    with hold(tmp_path / "lock"), pytest.raises(OutputError, match="another run does") as caught:
        hold(tmp_path / "lock")
    assert caught.value.path == str(tmp_path)
    hold(tmp_path / "lock").close()


def test_another_process_is_kept_out_and_its_end_frees_the_lock(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from vqonnx.graph.lock import hold;"
        "file = hold(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline().strip() == b"held"
        with pytest.raises(OutputError, match="another run does"):
            hold(tmp_path / "lock")
    finally:
        process.kill()
        process.communicate()
    hold(tmp_path / "lock").close()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        hold(tmp_path / "missing" / "lock")
