"""The peer's package, where it is installed."""

import logging
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def peer(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """``onnxruntime.quantization``; importing it sets up the root logger, which is undone."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("neutral"))
        module = pytest.importorskip("onnxruntime.quantization")
    root.handlers[:] = handlers
    root.setLevel(level)
    return module
