"""Dynamic quantization: each tool with its settings, as a function from file to file."""

from collections.abc import Callable
from typing import Any

from benchmarks.variants import OURS, Quantize, Task, Variant


def _ours(**settings: Any) -> Callable[[], Quantize]:
    def prepare() -> Quantize:
        from vqonnx import quantize_dynamic

        def quantize(task: Task) -> dict[str, Any]:
            report = quantize_dynamic(task.model, task.output, target="cpu", **settings)
            return {"stages": dict(report.seconds), "warnings": list(report.warnings)}

        return quantize

    return prepare


def _peer(**settings: Any) -> Callable[[], Quantize]:
    def prepare() -> Quantize:
        import onnxruntime.quantization as peer

        def quantize(task: Task) -> dict[str, Any]:
            peer.quantize_dynamic(str(task.model), str(task.output), **settings)
            return {}

        return quantize

    return prepare


DYNAMIC_VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(OURS, _ours()),
        Variant("vqonnx, Conv too", _ours(op_types_to_quantize=["Conv", "Gather", "Gemm", "LSTM", "MatMul"])),
        Variant("onnxruntime, default", _peer()),
        Variant("onnxruntime, per channel", _peer(per_channel=True)),
        Variant("onnxruntime, per channel, MatMul only", _peer(per_channel=True, op_types_to_quantize=["MatMul"])),
    )
}
