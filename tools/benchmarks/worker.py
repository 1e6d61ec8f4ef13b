"""One job in this process: ``python -m benchmarks.worker JOB RESULT.json < arguments.json``."""

import importlib.util
import inspect
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks.dynamic_variants import DYNAMIC_VARIANTS
from benchmarks.memory import AnonymousPeak, peak_mib
from benchmarks.variants import VARIANTS, Task, Variant

Result = dict[str, Any]
_WARM_UP_RUNS = 3
_MEMORY_LIMIT = 12 << 30  # bytes; some settings of the peer keep every activation of every sample


def quantize(variant: str, model: str, output: str, feeds: str, samples: int | None, topic: str = "") -> Result:
    """Seconds from file to file and peak memory of one quantization."""
    variants = DYNAMIC_VARIANTS if topic else VARIANTS
    work = variants[variant].prepare()
    task = Task(model=Path(model), output=Path(output), feeds=Path(feeds), samples=samples)
    start = time.perf_counter()
    facts = work(task)
    return {"seconds": time.perf_counter() - start, "peak_mib": peak_mib(), **facts}


def spool(asset: str, count: int, folder: str) -> Result:
    """Write the asset's calibration samples to a folder."""
    from benchmarks.feeds import spool as write

    return {"count": write(_evaluation(asset).calibration_samples(count), Path(folder))}


def evaluate(asset: str, model: str) -> Result:
    """The asset's own figures of one model, compared with the float model where it can."""
    evaluation = _evaluation(asset)
    wanted = inspect.signature(evaluation.evaluate).parameters
    given = {"float_model": str(Path(asset) / "model.onnx")} if "float_model" in wanted else {}
    figures: Result = evaluation.evaluate(model, **given)
    return figures


def latency(models: dict[str, str], feeds: str, rounds: int) -> Result:
    """Milliseconds of one run on one thread: all models in one process, in turns, so that all see the same machine."""
    from benchmarks.feeds import stream

    feed = next(stream(Path(feeds)))
    sessions = {name: _session(path, threads=1) for name, path in models.items()}
    for session in sessions.values():
        for _ in range(_WARM_UP_RUNS):
            session.run(None, feed)
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, session in sessions.items():
            times[name].append(_milliseconds(lambda session=session: session.run(None, feed)))  # type: ignore[misc]
    return {"milliseconds": times}


def pack(variant: str, model: str, output: str, feeds: str, samples: int, exclude: list[str]) -> Result:
    """Seconds from file to file and peak memory, anonymous too, of packing weights."""
    from benchmarks.weight_variants import WEIGHT_VARIANTS

    task = Task(model=Path(model), output=Path(output), feeds=Path(feeds), samples=samples, exclude=tuple(exclude))
    return _watched(WEIGHT_VARIANTS[variant], task)


def stream(variant: str, model: str, output: str) -> Result:
    """The same of a large model."""
    from benchmarks.weight_streaming import STREAM_VARIANTS

    return _watched(STREAM_VARIANTS[variant], Task(model=Path(model), output=Path(output)))


def _watched(variant: Variant, task: Task) -> Result:
    work = variant.prepare()
    start = time.perf_counter()
    with AnonymousPeak() as anonymous:
        facts = work(task)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "peak_mib": peak_mib(), "anonymous_mib": anonymous.mib, **facts}


def last_product(model: str) -> Result:
    """Name of the last MatMul by a constant: a language model's head."""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    return {"node": [node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in stored][-1]}


def large_model(folder: str, size: int) -> Result:
    """Write a model of ``size`` bytes of weights."""
    from models.large import large

    Path(folder).mkdir()
    return {"path": str(large(Path(folder), size))}


def weight_kernel(kernel: str) -> Result:
    """Speed and error of a solver and the peer's."""
    from benchmarks import weight_kernels

    return weight_kernels.measure(kernel)


def calibrate(tool: str, method: str, model: str, feeds: str, samples: int) -> Result:
    """Seconds of calibration, and of as many plain runs of the float model."""
    from benchmarks import calibration

    plain, seconds = calibration.measure(tool, method, Path(model), Path(feeds), samples)
    return {"plain": plain, "seconds": seconds}


def scale(variant: str, nodes: int, folder: str) -> Result:
    """Seconds to quantize a chain of Convs, and the part of them that ONNX Runtime took itself."""
    from benchmarks.clock import RuntimeClock
    from benchmarks.feeds import spool as write
    from models.chains import conv_chain
    from models.registry import Case

    place = Path(folder)
    model = conv_chain(nodes)
    (place / "model.onnx").write_bytes(model.SerializeToString())
    write(Case(name="chain", build=lambda: model, what="").feeds(2), place / "feeds")
    work = VARIANTS[variant].prepare()
    task = Task(model=place / "model.onnx", output=place / "out.onnx", feeds=place / "feeds")
    with RuntimeClock() as clock:
        start = time.perf_counter()
        work(task)
        seconds = time.perf_counter() - start
    return {"seconds": seconds, "own_seconds": seconds - clock.seconds, "peak_mib": peak_mib()}


def _evaluation(asset: str) -> ModuleType:
    path = Path(asset) / "eval.py"
    spec = importlib.util.spec_from_file_location("evaluation", path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _session(path: str, threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _milliseconds(work: Callable[[], Any], repeat: int = 3) -> float:
    """Best of a few runs in a row: what the machine does meanwhile only ever adds."""
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


_JOBS: dict[str, Callable[..., Result]] = {
    job.__name__: job
    for job in (
        *(quantize, spool, evaluate, latency, calibrate, scale),
        *(pack, stream, last_product, large_model, weight_kernel),
    )
}


def main() -> int:
    """Run the job that the command line names."""
    _, job, result = sys.argv
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_LIMIT, _MEMORY_LIMIT))
    measured = _JOBS[job](**json.load(sys.stdin))
    Path(result).write_text(json.dumps(measured, default=float))
    return 0


if __name__ == "__main__":
    sys.exit(main())
