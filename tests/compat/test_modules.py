"""Every public module of onnxruntime.quantization has one of the same name."""

import importlib
import pkgutil

import pytest

from tests.versions import since

LEFT_OUT = (
    "CalTableFlatBuffers",  # generated; ``calibration_table`` writes what they describe
    "cuda_quantizer",  # needs torch, and prepacks for kernels of one CUDA build
    "operators",  # private: how each operator is quantized
    "neural_compressor.onnx_model",  # a copy of ``onnx_model``
    "neural_compressor.util",  # private
)


def test_modules_have_the_same_names() -> None:
    since("1.31", "onnxruntime's modules of today")
    peer = pytest.importorskip("onnxruntime.quantization")
    found = [one.name.removeprefix("onnxruntime.quantization.") for one in walked(peer)]
    assert len(found) > 30
    for name in found:
        if not name.startswith(LEFT_OUT) and not name.endswith("__main__"):
            importlib.import_module(f"vqonnx.compat.{name}")


def walked(package):
    return pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
