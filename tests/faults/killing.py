"""Runs of a quantizer that are killed at random moments; a process of its own, which forks one for each run."""

import hashlib
import importlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from models.large import large
from tests.faults.flow import packed, static

_SEED = 0
_HEAVY = (
    "numba",
    "onnxruntime",
    "sympy",
    "vqonnx.flows.static",
    "vqonnx.flows.weight_only",
    "vqonnx.stages.weights.layers",
)
"""Imported before the first fork, so that runs spend their time on what may be torn."""


def killed_runs(flow: str, folder: Path, moments: int) -> dict[str, Any]:
    """Kill a run over an older output at ``moments`` random moments, and let another go on from what it left.

    Returns:
        How many runs were ``killed``, of which ``old`` and ``new`` found their output; ``faults``: what else it held,
        or what the next run made of it.
    """
    for module in _HEAVY:
        importlib.import_module(module)
    model, run = _job(flow, folder)
    old, new, out = folder / "old", folder / "new", folder / "out"
    for made, options in ((old, {"per_channel": False} if flow == "static" else {"bits": 8}), (new, {})):
        made.mkdir()
        _wait(_forked(partial(run, model, made / "m.onnx", **options)))
    started = time.monotonic()
    _wait(_forked(partial(run, model, folder / "timed.onnx")))
    seconds = time.monotonic() - started
    known = {_digest(old): "old", _digest(new): "new"}
    rng, found = np.random.default_rng(_SEED), {"killed": 0, "old": 0, "new": 0, "faults": []}
    for _ in range(moments):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(old, out)
        run_out = partial(run, model, out / "m.onnx")
        pid = _forked(run_out)
        moment = float(rng.uniform(0, 1.2 * seconds))
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
        found["killed"] += _wait(pid) == -signal.SIGKILL
        state = known.get(_digest(out), "torn")
        if state == "torn":
            found["faults"].append(f"torn after {moment:.3f} s")
        else:
            found[state] += 1
        if _wait(_forked(run_out)) != 0 or known.get(_digest(out)) != "new":
            found["faults"].append(f"not resumed after {moment:.3f} s")
        if left := [file.name for file in out.iterdir() if file.name.startswith(".")]:
            found["faults"].append(f"{left} left after {moment:.3f} s")
    return found


def _job(flow: str, folder: Path) -> tuple[Path, Callable[..., Any]]:
    (folder / "float").mkdir()
    model = large(folder / "float", 1 << 19, width=32, hidden=64, vocabulary=500)
    if flow == "weights":
        return model, partial(packed, algorithm="clip_search", use_external_data_format=True)
    feeds = [{"ids": np.random.default_rng(i).integers(0, 500, 16)} for i in range(8)]

    def run(model: Path, path: Path, **options: Any) -> None:
        cache = path.with_suffix(".cache")
        static(model, path, feeds, use_external_data_format=True, calibration_cache_path=cache, **options)
        cache.unlink()

    return model, run


def _forked(run: Callable[[], Any]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - a child must not run on in its parent's code
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    return pid


def _wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _digest(folder: Path) -> str:
    """Of the model with its data; of what prevents reading them, where something does."""
    try:
        return hashlib.sha256(onnx.load(folder / "m.onnx").SerializeToString(deterministic=True)).hexdigest()
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(killed_runs(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
