"""Time of calibration alone, for each tool, against plain runs of the float model.

All in one process and after a warm-up of both: importing, compiling kernels and reading samples are not calibration.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import onnxruntime as ort

from benchmarks.feeds import Feed, stream

METHODS = ("MinMax", "Percentile")
_ROUNDS = 5
_CORES = os.cpu_count() or 1
Work = Callable[[], object]
Calibrate = Callable[[str, Path, Sequence[Feed], Path], Work]


def measure(tool: str, method: str, model: Path, feeds: Path, samples: int) -> tuple[float, float]:
    """Seconds of plain runs on the feeds, and of calibration on the same: medians of rounds that take turns."""
    loaded = list(stream(feeds, samples))
    with tempfile.TemporaryDirectory() as folder:
        works = _plain(model, loaded), TOOLS[tool](method, model, loaded, Path(folder))
        for work in works:
            work()
        rounds = [[_seconds(work) for work in works] for _ in range(_ROUNDS)]
    plain, seconds = map(statistics.median, zip(*rounds, strict=True))
    return plain, seconds


def _seconds(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _plain(model: Path, feeds: Sequence[Feed]) -> Work:
    """Runs of the float model in one session that stays open, on all cores."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = _CORES
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def work() -> None:
        for feed in feeds:
            session.run(None, feed)

    return work


def _peer(method: str, model: Path, feeds: Sequence[Feed], folder: Path) -> Work:
    """``collect_data``; the session is made before, with the calibrator."""
    import onnxruntime.quantization as peer
    from onnxruntime.quantization.calibrate import create_calibrator

    from benchmarks.peer import ListReader

    calibrator = create_calibrator(
        model,
        augmented_model_path=str(folder / "augmented.onnx"),
        calibrate_method=peer.CalibrationMethod[method],
    )
    return lambda: calibrator.collect_data(ListReader(feeds))


def _ours(method: str, model: Path, feeds: Sequence[Feed], folder: Path) -> Work:
    """``observe``, which makes its sessions itself, with one worker a core."""
    from vqonnx.graph.io import load
    from vqonnx.quantizers.options import QuantizerOptions
    from vqonnx.quantizers.types import CalibrationMethod
    from vqonnx.stages.observe import observe
    from vqonnx.stages.plan import make_plan
    from vqonnx.stages.prepare import prepare

    prepared = prepare(load(model))
    options = QuantizerOptions.of(calibrate_method=CalibrationMethod[method])
    plan = make_plan(prepared.model, options.target, options.rules, prepared.folded)
    wanted = {tensor.tensor: tensor.method for tensor in plan.activations() if tensor.method is not None}
    return lambda: observe(prepared.model, wanted, feeds)


TOOLS: dict[str, Calibrate] = {"vqonnx": _ours, "onnxruntime": _peer}
