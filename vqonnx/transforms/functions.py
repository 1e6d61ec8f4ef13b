"""Model-local functions written out where they are called, so that what is inside can be planned."""

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from vqonnx.errors import ModelError
from vqonnx.graph.walk import nodes, subgraphs

_RUNTIME_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training", "ai.onnx.training"})
_RUNTIME_PREFIXES = ("com.microsoft", "ai.onnx.contrib")


def inline_functions(model: ir.Model) -> int:
    """Replace calls of model-local functions by their bodies; return how many functions went.

    A function stays when its domain is one of ONNX Runtime's own, whose kernels are faster than the body,
    when bodies are among the attributes of a call, or when it was written for other opsets than the model. So
    call this before the opset is raised. Names are made unique in the graph that calls, not in the model.

    Raises:
        ModelError: Functions call each other in a circle.
    """
    if not model.functions:
        return 0
    before = len(model.functions)
    kept = {node.op_identifier() for node in nodes(model) if any(subgraphs(node))}
    try:
        InlinePass(criteria=lambda function: function.identifier() not in kept and _fits(function, model))(model)
    except ir.passes.PreconditionError as error:
        raise ModelError(f"the model's functions call each other in a circle: {error}. Export it again.") from error
    return before - len(model.functions)


def _fits(function: ir.Function, model: ir.Model) -> bool:
    if function.domain in _RUNTIME_DOMAINS or function.domain.startswith(_RUNTIME_PREFIXES):
        return False
    return all(model.opset_imports.get(domain) == version for domain, version in function.opset_imports.items())
