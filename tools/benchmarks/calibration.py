"""Time of calibration alone, for each tool."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnxruntime as ort

from benchmarks.feeds import stream

METHODS = ("MinMax", "Percentile")
Calibrate = Callable[[str, Path, Path, int], float]


def plain_seconds(model: Path, feeds: Path, samples: int) -> float:
    """Seconds to run the float model on the feeds, read from files, in one session on all cores."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    session.run(None, next(stream(feeds)))
    start = time.perf_counter()
    for feed in stream(feeds, samples):
        session.run(None, feed)
    return time.perf_counter() - start


def _peer(method: str, model: Path, feeds: Path, samples: int) -> float:
    import onnxruntime.quantization as peer
    from onnxruntime.quantization.calibrate import create_calibrator

    from benchmarks.peer import PeerReader

    with tempfile.TemporaryDirectory() as folder:
        start: float = time.perf_counter()
        calibrator = create_calibrator(
            model,
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=peer.CalibrationMethod[method],
        )
        calibrator.collect_data(PeerReader(feeds, samples))
        calibrator.compute_data()
        return time.perf_counter() - start


def _ours(method: str, model: Path, feeds: Path, samples: int) -> float:
    from vqonnx import CalibrationMethod, quantize_static

    with tempfile.TemporaryDirectory() as folder:
        report = quantize_static(
            model,
            Path(folder) / "out.onnx",
            stream(feeds, samples),
            calibrate_method=CalibrationMethod[method],
            target="cpu",
            guard=False,
            bias_correction=False,
        )
    # Of the samples, some are held back for verification and not observed.
    return report.seconds["observe"] * samples / report.samples


TOOLS: dict[str, Calibrate] = {"vqonnx": _ours, "onnxruntime": _peer}
