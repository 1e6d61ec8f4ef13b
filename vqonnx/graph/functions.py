"""Which model-local functions can be written out where they are called."""

from collections.abc import Mapping

import onnx_ir as ir

from vqonnx.graph.walk import nodes, subgraphs

_RUNTIME_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training", "ai.onnx.training"})
_RUNTIME_PREFIXES = ("com.microsoft", "ai.onnx.contrib")


def obstacles(model: ir.Model) -> Mapping[ir.OperatorIdentifier, str]:
    """Why a function must stay a function, for each one that must."""
    with_bodies = {node.op_identifier() for node in nodes(model) if next(subgraphs(node), None) is not None}
    reasons = {
        identifier: "a call has a body among its attributes" if identifier in with_bodies else _unfit(function, model)
        for identifier, function in model.functions.items()
    }
    return {identifier: reason for identifier, reason in reasons.items() if reason}


def _unfit(function: ir.Function, model: ir.Model) -> str:
    if function.domain in _RUNTIME_DOMAINS or function.domain.startswith(_RUNTIME_PREFIXES):
        return "ONNX Runtime may have a kernel for it, which is faster than its body"
    for domain, version in function.opset_imports.items():
        present = model.opset_imports.get(domain)
        if present not in (None, version):
            return f"it was written for opset {version} of {domain or 'ai.onnx'!r}, the model has {present}"
        if present is None and any(f.opset_imports.get(domain, version) != version for f in model.functions.values()):
            return f"another function was written for another version of {domain!r}"
    return ""
