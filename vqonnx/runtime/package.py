"""The onnxruntime package, imported when first needed, and its errors told in ours."""

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from types import ModuleType

from vqonnx.errors import DependencyError, ModelError, VerificationError

# ORT's own exception classes; they share no base but Exception.
_UNREADABLE = ("InvalidProtobuf", "NoModel", "NoSuchFile")
_REFUSED = (
    "EngineError",
    "EPFail",
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "ModelRequiresCompilation",
    "NotFound",
    "NotImplemented",
    "RuntimeException",
)

_PACKAGES = {
    "CUDAExecutionProvider": "onnxruntime-gpu",
    "DmlExecutionProvider": "onnxruntime-directml (Windows)",
    "OpenVINOExecutionProvider": "onnxruntime-openvino",
    "QNNExecutionProvider": "onnxruntime-qnn",
    "TensorrtExecutionProvider": "onnxruntime-gpu",
}


def onnxruntime() -> ModuleType:
    """The module ``onnxruntime``, from whichever package brought it.

    Raises:
        DependencyError: None is installed.
    """
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise DependencyError(
            f"onnxruntime cannot be imported ({error}). Install it with one of the extras: pip install vqonnx[cpu], "
            "vqonnx[directml] (Windows, any GPU) or vqonnx[gpu] (CUDA); only one of them.",
            package="onnxruntime",
        ) from error


def require_providers(providers: Sequence[str]) -> None:
    """Raise unless this onnxruntime has each execution provider.

    Raises:
        DependencyError: One is absent; the text lists those that are there.
    """
    present = onnxruntime().get_available_providers()
    for provider in providers:
        if provider not in present:
            raise DependencyError(
                f"execution provider {provider!r} is not in this onnxruntime, which has {', '.join(present)}. "
                f"Use one of these, or install {_PACKAGES.get(provider, 'the package that brings it')} in its place.",
                package=provider,
            )


@contextlib.contextmanager
def runtime_errors(doing: str, *, path: str | None = None) -> Iterator[None]:
    """Turn what ORT raises inside the block into ours; anything else passes.

    Args:
        doing: What the block does, for the message: ``"load model 'm.onnx'"``.
        path: The model's file, if it has one.

    Raises:
        ModelError: There is no file, or it cannot be parsed.
        VerificationError: ORT refuses to load or run the model.
    """
    onnxruntime()
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    # A class that this version of ORT lacks cannot be raised by it.
    unreadable = tuple(getattr(state, name) for name in _UNREADABLE if hasattr(state, name))
    refused = tuple(getattr(state, name) for name in _REFUSED if hasattr(state, name))
    try:
        yield
    except unreadable as error:
        raise ModelError(f"ONNX Runtime cannot {doing}: {error}. Check the file.", path=path) from error
    except refused as error:
        raise VerificationError(
            f"ONNX Runtime cannot {doing}: {error}. Check the model with onnx.checker and the versions of both.",
            path=path,
        ) from error
