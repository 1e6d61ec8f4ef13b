"""The names that users import: all there, none loaded before it is used."""

import importlib
import subprocess
import sys

import pytest

import vqonnx

HEAVY = ("onnx", "onnx_ir", "onnxruntime", "numba", "numpy", "rich", "sympy")


@pytest.mark.parametrize("name", vqonnx.__all__)
def test_a_public_name_can_be_imported(name: str) -> None:
    found = getattr(importlib.import_module("vqonnx"), name)
    assert found is not None
    home = getattr(found, "__module__", None)
    assert home is None or home.startswith("vqonnx")


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="module 'vqonnx' has no attribute 'quantize_magically'"):
        vqonnx.quantize_magically  # noqa: B018 - the look-up is the test


def test_every_public_name_is_documented() -> None:
    for name in set(vqonnx.__all__) - {"__version__"}:
        assert getattr(vqonnx, name).__doc__, name


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import sys, vqonnx; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_version_is_one() -> None:
    parts = vqonnx.__version__.split(".")
    assert len(parts) >= 3
    assert all(part.isdigit() for part in parts[:2])
