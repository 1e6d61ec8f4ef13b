"""Files on their way to their place: alive they are left alone, dead they are removed."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest

from models.build import build
from vqonnx.errors import OutputError
from vqonnx.graph.io import load, save
from vqonnx.graph.pending import PendingFiles, drafts_of, pending_files, remove_unheld

_SAVE = """
import sys
from pathlib import Path
from vqonnx.graph.io import load, save

def wait(draft: Path) -> None:
    print("written", flush=True)
    sys.stdin.readline()

save(load(sys.argv[1]), sys.argv[2], external=True, check=wait)
"""
THEIRS = ".m.tmp.onnx", ".m.0123456789.tmp.onnx", ".n.0123456789ab.tmp.onnx", "m.0123456789abcdef.data", ".m.onnx"


def model(fill: float) -> onnx.ModelProto:
    return build("g (float[512] x) => (float[512] y) { y = Add (x, w) }", {"w": np.full(512, fill, np.float32)})


@contextmanager
def saving(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process whose model is written and not in place yet."""
    onnx.save(model(1), folder / "source" / "m.onnx")
    command = [sys.executable, "-c", _SAVE, str(folder / "source" / "m.onnx"), str(folder / "out" / "m.onnx")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for name in ("source", "out"):
        (tmp_path / name).mkdir()
    for name in THEIRS:
        (tmp_path / "out" / name).write_bytes(b"a user's")
    return tmp_path / "out"


def ours(folder: Path) -> set[str]:
    found = {file.name for file in folder.iterdir()}
    assert found > set(THEIRS) or found == set(THEIRS)
    return found - set(THEIRS)


def test_what_a_killed_run_leaves_is_removed_by_the_next(out: Path) -> None:
    with saving(out.parent) as process:
        process.kill()
        process.wait()
    left = ours(out)
    assert {Path(name).suffix for name in left} == {".onnx", ".data"}
    saved = save(load(model(2)), out / "m.onnx", external=True)
    assert saved.data_path is not None
    assert ours(out) == {"m.onnx", saved.data_path.name}
    assert not left & ours(out)


def test_two_runs_to_one_path_leave_the_files_of_the_later(out: Path) -> None:
    with saving(out.parent) as process:
        theirs = ours(out)
        save(load(model(1)), out / "m.onnx", external=True)  # equal to theirs: both stand on one data file
        save(load(model(2)), out / "m.onnx", external=True)
        assert theirs < ours(out)
        process.communicate("go on\n")
        assert process.returncode == 0
    written = onnx.load(out / "m.onnx")
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(written.graph.initializer[0]), np.full(512, 1, np.float32))
    assert {Path(name).suffix for name in ours(out)} == {".onnx", ".data"}
    assert len(ours(out)) == 2


def test_a_draft_is_not_lost_to_a_run_that_tidies_up(tmp_path: Path) -> None:
    target, done = tmp_path / "m.onnx", threading.Event()

    def tidy() -> None:
        while not done.is_set():
            for draft in drafts_of(target):
                remove_unheld(draft)

    tidying = threading.Thread(target=tidy)
    tidying.start()
    files = PendingFiles()
    try:
        drafts = [files.new(target) for _ in range(200)]
        assert all(draft.is_file() for draft in drafts)
    finally:
        done.set()
        tidying.join()
        files.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_place_stays_when_a_later_step_fails(tmp_path: Path) -> None:
    def fail(files: PendingFiles) -> None:
        files.place(files.new(tmp_path / "a"), tmp_path / "a")
        files.place_for_now(files.new(tmp_path / "b"), tmp_path / "b")
        files.new(tmp_path / "c")
        raise OSError(28, "no space")

    with pytest.raises(OutputError, match="no space"), pending_files(tmp_path / "m.onnx") as files:
        fail(files)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
