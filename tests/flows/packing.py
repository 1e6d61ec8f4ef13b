"""Weight-only quantization as tests call it, in this process and in one of its own, and what they feed it."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx

from benchmarks.memory import AnonymousPeak
from models.build import Weights, build
from models.registry import load as load_cases
from vqonnx import Report, quantize_weight_only
from vqonnx.stages.weights.files import DataFile

ROOT = Path(__file__).parents[2]


def pack(model: Any, path: Path, **arguments: Any) -> Report:
    """Without bars on the terminal."""
    return quantize_weight_only(model, path, **{"progress": lambda *_: None, **arguments})


def decoder_samples(count: int = 16) -> list[dict[str, np.ndarray]]:
    """Samples of 8 tokens for ``models.weights.decoder_with_cache`` and its like."""
    return list(replace(load_cases()["weights/cache"], sizes={"N": 8}).feeds(count))


def bfloat16_product() -> onnx.ModelProto:
    """A product that ONNX Runtime's CPU has no kernel for."""
    weights = Weights(51)
    weights.normal("w", 32, 24)
    text = "half (bfloat16[N, 32] x) => (bfloat16[N, 24] y) { y = MatMul (x, w) }"
    return build(text, {"w": weights.arrays["w"].astype(ml_dtypes.bfloat16)}, opset=21)


def pack_in_process(
    model: Path, path: Path, *, kill_after: int | None = None, **arguments: Any
) -> dict[str, Any] | None:
    """``pack`` in a fresh process: its peak of anonymous memory in MiB, or None where it was killed.

    Args:
        model: The float model.
        path: The output.
        kill_after: Weights to be stored before the process ends as by ``kill -9``, in the middle of storing one more.
        arguments: As JSON has them; samples are a folder.
    """
    job = {"model": str(model), "path": str(path), "kill_after": kill_after, "arguments": arguments}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tools")))}
    command = [sys.executable, "-m", "tests.flows.packing", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode == -signal.SIGKILL:
        return None
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _die_after(count: int) -> None:
    """Let the process end when the arrays of so many weights are stored, and those of one more, but not its record."""
    inner, stored = DataFile.append, [0]

    def append(file: DataFile, arrays: Any) -> Any:
        places = inner(file, arrays)
        if stored[0] == count:
            os.kill(os.getpid(), signal.SIGKILL)
        stored[0] += 1
        return places

    DataFile.append = append  # type: ignore[method-assign]


def _main(model: str, path: str, kill_after: int | None, arguments: dict[str, Any]) -> None:
    if kill_after is not None:
        _die_after(kill_after)
    with AnonymousPeak() as peak:
        report = pack(model, Path(path), **arguments)
    seen = {"mib": peak.mib, "weights": len(report.weights), "level": report.verification.level.name}
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    _main(**json.loads(sys.argv[1]))
