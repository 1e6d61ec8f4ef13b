"""What a model of another tool needs before its custom operators run here."""

from collections.abc import Callable

import onnx_ir as ir

from vqonnx.core.block_formats import BlockFormat
from vqonnx.core.custom_ops import (
    BLOCK_FLOAT,
    DEQUANTIZE,
    DOMAIN,
    FIX_NEURON,
    MICROSCALING,
    OLD_DOMAIN,
    QUANTIZE,
    Attributes,
    CustomOp,
    block_float_of,
    custom_op,
    fix_neuron_bits,
    microscaling_of,
)
from vqonnx.errors import OptionError, UnsupportedModelError
from vqonnx.graph.walk import nodes
from vqonnx.ops.register import INTEGERS

_FLOATS = frozenset({ir.DataType.FLOAT})
_CODES = frozenset(ir.DataType[name.upper()] for name in INTEGERS)
_INPUTS = {
    QUANTIZE.name: (_FLOATS, _FLOATS, _CODES),
    DEQUANTIZE.name: (_CODES, _FLOATS, _CODES),
    BLOCK_FLOAT.name: (_FLOATS,),
    MICROSCALING.name: (_FLOATS,),
    FIX_NEURON.name: (_FLOATS, _FLOATS, frozenset({ir.DataType.INT8})),
}
_READ: dict[str, Callable[[Attributes], BlockFormat | int]] = {
    BLOCK_FLOAT.name: block_float_of,
    MICROSCALING.name: microscaling_of,
    FIX_NEURON.name: fix_neuron_bits,
}


def make_runnable(model: ir.Model) -> None:
    """Write out the attributes that custom nodes leave to their defaults, in place; refuse nodes that cannot run.

    onnxruntime-extensions wants every attribute on the node, and what a body cannot compute would come out only while
    the model runs.

    Raises:
        UnsupportedModelError: An operator of these domains is not one of ours, has an attribute that means nothing or
            an axis that its input lacks, or a tensor type other than float32 and integers of 8, 16 and 32 bits.
    """
    for node in nodes(model):
        op = custom_op(node.domain, node.op_type)
        if op is not None or node.domain in (DOMAIN, OLD_DOMAIN):
            if op is None:
                raise _refused(node, "it is not among the operators that vqonnx runs")
            for name, default in op.defaults.items():
                if name not in node.attributes:
                    node.attributes.add(ir.convenience.convert_attribute(name, default))
            _require_inputs(node, op)
            if op.name in _READ:
                _require_attributes(node, op)


def _require_inputs(node: ir.Node, op: CustomOp) -> None:
    wanted = _INPUTS[op.name]
    if len(node.inputs) != len(wanted):
        raise _refused(node, f"it has {len(node.inputs)} inputs, not {len(wanted)}")
    for value, types in zip(node.inputs, wanted, strict=True):
        if value is None or not (value.dtype is None or value.dtype in types):
            what = "an input that is absent" if value is None else f"input {value.name!r} of type {value.dtype}"
            raise _refused(
                node,
                f"it has {what}. Write float16 and bfloat16 as pairs of Cast, and float8 as QuantizeLinear and "
                "DequantizeLinear",
            )


def _require_attributes(node: ir.Node, op: CustomOp) -> None:
    given = {name: attribute.value for name, attribute in node.attributes.items()}
    try:
        _READ[op.name](given)
    except OptionError as error:
        raise _refused(node, str(error).rstrip(".")) from error
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    axis = given.get("axis")
    if axis is not None and shape is not None and len(shape) > 1 and not -len(shape) <= axis < len(shape):
        raise _refused(node, f"its input of rank {len(shape)} has no axis {axis}")


def _refused(node: ir.Node, why: str) -> UnsupportedModelError:
    operator = f"{node.domain}::{node.op_type}"
    return UnsupportedModelError(f"cannot run node {node.name!r} ({operator}): {why}.", node=node.name)
