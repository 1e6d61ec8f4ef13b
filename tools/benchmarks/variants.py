"""What is compared: each tool with its settings, as a function from file to file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FLOAT = "float"
OURS = "vqonnx"
PEER = "onnxruntime, default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One quantization: paths, how many of the feeds to use, and nodes to leave float."""

    model: Path
    output: Path
    feeds: Path = Path()
    samples: int | None = None
    exclude: tuple[str, ...] = ()


Quantize = Callable[[Task], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Variant:
    """A tool with its settings.

    Attributes:
        name: As the tables call it.
        prepare: Imports the tool, outside the measured time, and returns what quantizes; that returns facts to keep.
    """

    name: str
    prepare: Callable[[], Quantize]


def _ours() -> Quantize:
    from benchmarks.feeds import stream
    from vqonnx import quantize_static

    def quantize(task: Task) -> dict[str, Any]:
        report = quantize_static(task.model, task.output, stream(task.feeds, task.samples), target="cpu")
        return {"stages": dict(report.seconds), "warnings": list(report.warnings)}

    return quantize


def _peer(**settings: Any) -> Callable[[], Quantize]:
    def prepare() -> Quantize:
        import onnxruntime.quantization as peer

        from benchmarks.peer import PeerReader

        enums = {"activation_type": peer.QuantType, "weight_type": peer.QuantType}
        enums["calibrate_method"] = peer.CalibrationMethod
        arguments = {name: enums[name][value] if name in enums else value for name, value in settings.items()}

        def quantize(task: Task) -> dict[str, Any]:
            reader = PeerReader(task.feeds, task.samples)
            peer.quantize_static(str(task.model), str(task.output), reader, **arguments)
            return {}

        return quantize

    return prepare


_U8S8 = {"activation_type": "QUInt8", "weight_type": "QInt8", "per_channel": True}

VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(OURS, _ours),
        Variant(PEER, _peer()),
        Variant("onnxruntime, u8s8 per channel, MinMax", _peer(**_U8S8)),
        Variant("onnxruntime, u8s8 per channel, Percentile", _peer(**_U8S8, calibrate_method="Percentile")),
        Variant(
            "onnxruntime, u8s8 per channel, MinMax, Conv and MatMul only",
            _peer(**_U8S8, op_types_to_quantize=["Conv", "MatMul"]),
        ),
    )
}
