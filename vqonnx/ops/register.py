"""Registration of the operators with sessions of ONNX Runtime."""

import importlib
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from vqonnx.core.custom_ops import (
    BLOCK_FLOAT,
    CONTRIB_DOMAIN,
    DEQUANTIZE,
    DOMAIN,
    FIX_NEURON,
    MICROSCALING,
    OLD_DOMAIN,
    QUANTIZE,
    CustomOp,
)
from vqonnx.errors import DependencyError
from vqonnx.ops import bodies

CUSTOM_DOMAINS = frozenset({DOMAIN, OLD_DOMAIN, CONTRIB_DOMAIN})
"""Domains whose operators ``register`` brings; those of onnxruntime-extensions itself are in the last."""
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32")
"""Types that ExtendedQuantizeLinear and ExtendedDequantizeLinear run with."""

_lock = threading.Lock()
_declared: list[ModuleType] = []
_registered: weakref.WeakSet[Any] = weakref.WeakSet()


@dataclass(frozen=True, slots=True)
class _Signature:
    """One operator with one choice of types."""

    op: CustomOp
    inputs: tuple[str, ...]
    output: str
    body: Callable[..., bodies.HandedOver]


def _signatures() -> Iterator[_Signature]:
    yield _Signature(BLOCK_FLOAT, ("float",), "float", bodies.block_float)
    yield _Signature(MICROSCALING, ("float",), "float", bodies.microscaling)
    yield _Signature(FIX_NEURON, ("float", "float", "int8"), "float", bodies.fix_neuron)
    for integer in INTEGERS:
        yield _Signature(QUANTIZE, ("float", "float", integer), integer, bodies.quantize_linear)
        yield _Signature(DEQUANTIZE, (integer, "float", integer), "float", bodies.dequantize_linear)


def register(session_options: Any) -> None:
    """Let sessions made with these options run the custom operators, on the CPU.

    They take float32 tensors, and integers where they quantize linearly; ONNX Runtime refuses others. It also refuses
    nodes that leave an attribute to its default: see ``make_runnable``.

    Args:
        session_options: An ``onnxruntime.SessionOptions``. A second call for the same object does nothing. No other
            library with operators of these domains may be registered with it.

    Raises:
        DependencyError: onnxruntime-extensions is not installed.
    """
    with _lock:
        extensions = _extensions()
        if extensions not in _declared:
            _declare(extensions)
            _declared.append(extensions)
        if session_options in _registered:
            return
        session_options.register_custom_ops_library(extensions.get_library_path())
        _registered.add(session_options)


def _extensions() -> ModuleType:
    try:
        return importlib.import_module("onnxruntime_extensions")
    except ImportError as error:
        raise DependencyError(
            "running custom operators, Vitis AI's and others of ai.onnx.contrib, needs onnxruntime-extensions, which "
            f"cannot be imported ({error}): "
            "pip install vqonnx[vitis]. There are wheels for Linux, macOS and 64-bit x86 Windows up to Python 3.13. "
            "Without it, verify='checker' with bias_correction='off' writes models that nobody has run.",
            package="onnxruntime-extensions",
        ) from error


def _declare(extensions: ModuleType) -> None:
    """Make the operators known to the library; it hands them to all sessions registered from now on."""
    types = extensions.PyCustomOpDef
    kinds = {int: types.dt_int64, str: types.dt_string}
    for signature in _signatures():
        attributes = {name: kinds[type(default)] for name, default in signature.op.defaults.items()}
        for name in signature.op.qualified_names:
            extensions.onnx_op(
                op_type=name,
                inputs=[getattr(types, f"dt_{kind}") for kind in signature.inputs],
                outputs=[getattr(types, f"dt_{signature.output}")],
                attrs=attributes,
            )(signature.body)
