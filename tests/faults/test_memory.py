"""Memory of quantizing a large model: slow."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.large import GIB, large

ROOT = Path(__file__).parents[2]
_FEED = "numpy.random.default_rng({}).integers(0, 32000, 16)"
_SESSION = f"""
import numpy, onnxruntime
onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {{"ids": {_FEED.format(0)}}})
"""
_QUANTIZER = f"""
import numpy, vqonnx
feeds = [{{"ids": {_FEED.format("i")}}} for i in range(8)]
vqonnx.quantize_static(path, path + ".int8", feeds, target="cpu", progress=lambda *_: None)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the system does not tell peaks to Python")
def test_memory_is_that_of_a_session_and_little_more(tmp_path: Path) -> None:
    path = large(tmp_path, GIB + GIB // 4)
    session, quantizer = (peak_mib(code, path) for code in (_SESSION, _QUANTIZER))
    assert quantizer < session + 500


def peak_mib(code: str, path: Path) -> float:
    """Peak resident memory of a fresh process."""
    script = f"path = {str(path)!r}\n{code}\nfrom benchmarks.memory import peak_mib\nprint(peak_mib())"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tools")))}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)
