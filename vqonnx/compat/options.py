"""Options and operators that programs give to onnxruntime.quantization, which ignores what it does not know.

What is ignored here is told in the log, with the nearest name that is known.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import onnx

from vqonnx.core.custom_ops import DOMAIN
from vqonnx.errors import nearest
from vqonnx.graph.io import ModelSource, load
from vqonnx.graph.walk import nodes
from vqonnx.quantizers.dynamic_options import DYNAMIC_OPTIONS
from vqonnx.quantizers.extra_options import STATIC_OPTIONS
from vqonnx.quantizers.vitis_options import KNOWN
from vqonnx.targets.onnxruntime import DYNAMIC_OPERATORS

_log = logging.getLogger("vqonnx")
_RUNTIME_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc", DOMAIN})
"""Of operators that ONNX Runtime has, or gets from ``vqonnx.ops``."""
_STATIC = frozenset({*STATIC_OPTIONS, *KNOWN})
_WITHOUT_EFFECT = frozenset({"Transpose"})
"""Listed by the peer for dynamic quantization, where nothing gives it integers."""
_REASONS = {
    "ActivationSymmetric": "DynamicQuantizeLinear (ONNX 11) gives asymmetric uint8",
    "ActivationRestrictedAsymmetric": "DynamicQuantizeLinear (ONNX 11) chooses the zero point",
    "DefaultTensorType": "no activation is measured",
    "MatMulConstBOnly": "a product of two activations gains no time in integers, and stays float",
    "extra.Sigmoid.nnapi": "no Sigmoid is quantized",
}
"""Why options of static quantization change nothing in dynamic quantization."""
_DEFAULTS = {"DefaultTensorType": None, "MatMulConstBOnly": True}


def known_options(options: Mapping[str, object] | None, known: Collection[str] = _STATIC) -> dict[str, object]:
    """``extra_options`` without the keys that are no option."""
    given = dict(options or {})
    for key in [key for key in given if key not in known]:
        _log.warning("extra_options: %r is no option, and ignored%s.", key, nearest(key, known))
        del given[key]
    return given


def dynamic_options(options: Mapping[str, object] | None) -> dict[str, object]:
    """``extra_options`` without those that change nothing in dynamic quantization, there or here."""
    effective: dict[str, object] = {}
    for key, value in known_options(options, {*_STATIC, *DYNAMIC_OPTIONS}).items():
        if key in DYNAMIC_OPTIONS and key not in _REASONS:
            effective[key] = value
        elif value != _DEFAULTS.get(key, False):
            reason = _REASONS.get(key, "it is one of static quantization")
            _log.warning("extra_options: %r=%r changes nothing: %s.", key, value, reason)
    return effective


def dynamic_operators(asked: Sequence[str] | None) -> list[str]:
    """The operators that have a dynamic form, all by default; the peer takes the others without effect."""
    quantized = {"Gemm", *DYNAMIC_OPERATORS} - _WITHOUT_EFFECT
    named = [name for name in asked or DYNAMIC_OPERATORS if name in quantized]
    for name in asked or ():
        if not (name in quantized or name in _WITHOUT_EFFECT or onnx.defs.has(name)):
            _log.warning("op_types_to_quantize: %r has no dynamic form%s.", name, nearest(name, quantized))
    return [*named, "Gemm"] if "MatMul" in named and "Gemm" not in named else named


def verification(model: ModelSource) -> Literal["checker", False]:
    """How a result is verified where nothing is run: it is loaded, unless operators are in a library of the user's."""
    graph = load(model)
    functions = {function.domain for function in graph.functions.values()}
    return "checker" if {node.domain for node in nodes(graph)} - functions - _RUNTIME_DOMAINS else False
