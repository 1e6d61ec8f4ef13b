"""Model-local functions written out where they are called, so that what is inside can be planned."""

from collections.abc import Collection

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from vqonnx.errors import ModelError
from vqonnx.graph.functions import obstacles


def inline_functions(model: ir.Model, only: Collection[ir.OperatorIdentifier] | None = None) -> int:
    """Replace calls of model-local functions by their bodies; return how many functions went.

    A function stays when its domain is one of ONNX Runtime's own, whose kernels are faster than the body,
    when bodies are among the attributes of a call, or when it was written for other opsets than the model. So
    call this before the opset is raised. Names are made unique in the graph that calls, not in the model.

    Args:
        model: Edited in place.
        only: The functions to write out; None means all.

    Raises:
        ModelError: Functions call each other in a circle.
    """
    if not model.functions:
        return 0
    before = len(model.functions)
    wanted = set(model.functions if only is None else only) - set(obstacles(model))
    try:
        InlinePass(criteria=lambda function: function.identifier() in wanted)(model)
    except ir.passes.PreconditionError as error:
        raise ModelError(f"the model's functions call each other in a circle: {error}. Export it again.") from error
    return before - len(model.functions)
