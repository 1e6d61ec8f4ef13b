"""Shapes by computing with dimensions that have no number: ONNX Runtime's symbolic inference."""

import importlib
from dataclasses import dataclass

import onnx
import onnx.checker
import onnx.shape_inference
import onnx_ir as ir

from vqonnx.errors import ModelError
from vqonnx.graph import external
from vqonnx.graph.proto import initialized_values, message_of, tensors_replaced
from vqonnx.graph.walk import values, values_by_name

_STATED_BELOW = 1 << 10
"""Bytes; shapes and axes are computed with, weights are only asked for their shape."""

# The tool asserts what it does not know, and trips over what it has not met.
_ITS_FAILURES = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, NotImplementedError),
    *(OSError, RuntimeError, TypeError, ValueError),
    *(onnx.checker.ValidationError, onnx.shape_inference.InferenceError),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SymbolicOptions:
    """The tool's options, with its defaults.

    Attributes:
        int_max: Numbers from here on count as no bound, as in the ends of a Slice.
        auto_merge: Take dimensions for one where an operator needs them equal.
        guess_output_rank: Give what unknown operators make the rank of their first input.
        verbose: Messages: 0 none, 1 warnings, 3 all.
    """

    int_max: int = 2**31 - 1
    auto_merge: bool = False
    guess_output_rank: bool = False
    verbose: int = 0


def infer_symbolic(model: ir.Model, options: SymbolicOptions | None = None) -> None:
    """Fill in types and shapes that follow from arithmetic with named dimensions, in place; what is stated stays.

    It is worth its time where a Reshape takes a shape that is computed from a dynamic input.

    Raises:
        ModelError: The tool failed, or this onnxruntime comes without it; nothing was changed.
    """
    try:
        tool = importlib.import_module("onnxruntime.tools.symbolic_shape_infer")
        inferred = _run(tool.SymbolicShapeInference, _without_weights(model), options or SymbolicOptions())
    except ImportError as error:
        raise ModelError(f"symbolic shape inference is not there: {error}. Install sympy.") from error
    except _ITS_FAILURES as error:
        raise ModelError(f"symbolic shape inference failed: {type(error).__name__}: {error}.") from error
    known = values_by_name(ir.serde.deserialize_model(inferred))
    for value in values(model):
        found = known.get(value.name or "")
        if found is not None:
            value.type = value.type or found.type
            value.shape = found.shape if value.shape is None else value.shape


def _run(tool: type, proto: onnx.ModelProto, options: SymbolicOptions) -> onnx.ModelProto:
    """What the tool's ``infer_shapes`` does, less its way with gaps: a file in the working folder and an error."""
    inference = tool(options.int_max, options.auto_merge, options.guess_output_rank, options.verbose)
    inference._preprocess(proto)
    while inference.run_:
        inference._infer_impl()
    inference._update_output_from_vi()
    result: onnx.ModelProto = inference.out_mp_
    return result


def _without_weights(model: ir.Model) -> onnx.ModelProto:
    stand_ins = {
        value: external.reference(tensor, "left out", external.Placed(0, tensor.nbytes))
        for value, tensor in initialized_values(model)
        if tensor.nbytes >= _STATED_BELOW
    }
    with tensors_replaced(stand_ins):
        return message_of(model)
