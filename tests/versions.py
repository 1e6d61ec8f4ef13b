"""What older ONNX Runtimes lack; 1.24 and later are served."""

import onnxruntime
import pytest
from packaging.version import Version


def since(version: str, what: str) -> None:
    """Skip the test where ONNX Runtime is older than ``version``, which brought ``what``."""
    if Version(onnxruntime.__version__) < Version(version):
        pytest.skip(f"{what} came with ONNX Runtime {version}")
