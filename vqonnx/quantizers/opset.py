"""The opset that a quantized form needs of the model."""

import onnx_ir as ir

from vqonnx.core.qtype import Kind, QType
from vqonnx.graph.walk import values
from vqonnx.quantizers.options import QuantizerOptions

_FIRST = 10
_ROUND = 11
_PER_AXIS = 13
_FLOAT16_SCALES = 19
_WIDE_OR_NARROW_TYPES = 21


def needed_opset(model: ir.Model, options: QuantizerOptions) -> int:
    """Least default-domain opset: 13 for scales per axis, 19 for float16 scales, 21 for blocks, 16- and 4-bit types.

    Graphs that are taken as given keep theirs, from 10 on, where no scale has an axis; older ones get 11, and so do
    those with float biases, since ONNX Runtime (1.31) rounds these for integer kernels with Round-11. With
    ``UseQDQContribOps`` the operators of com.microsoft take the place of 21, but in float16, where ONNX Runtime adds
    ONNX's own for the biases.
    """
    half = any(value.dtype == ir.DataType.FLOAT16 for value in values(model))
    least = _least_as_given(model, options) if options.target.as_given and not options.rules.has_axes else _PER_AXIS
    if options.rules.contrib:
        return _FLOAT16_SCALES if half else least
    overrides = options.rules.overrides.values()
    types = [options.rules.activation.qtype, options.rules.weight.qtype]
    types += [override.qtype for override in overrides if override.qtype is not None]
    forms = [override.conversion.form for override in overrides if override.conversion is not None]
    types += [form.qtype for form in forms if form.qtype is not None]
    asked = [qtype for layer in options.rules.layers for qtype in (layer.activation, layer.weight)]
    types += [qtype for qtype in asked if qtype is not None]
    types += [options.rules.own_bias.qtype] if options.rules.own_bias is not None else []
    if options.rules.block_size or any(_is_newer_integer(qtype, options) for qtype in types):
        return _WIDE_OR_NARROW_TYPES
    return _FLOAT16_SCALES if half or any(qtype.name.startswith("float8") for qtype in types) else least


def _least_as_given(model: ir.Model, options: QuantizerOptions) -> int:
    is_older = (model.graph.opset_imports.get("") or _FIRST) < _FIRST
    return _ROUND if is_older or not options.rules.quantize_bias else _FIRST


def _is_newer_integer(qtype: QType, options: QuantizerOptions) -> bool:
    """Whether ONNX's QuantizeLinear and DequantizeLinear take an integer type since opset 21 only.

    32-bit ones take Vitis AI's operators, block formats and 16-bit floats others, which all opsets have.
    """
    if qtype.kind is not Kind.INTEGER:
        return False
    return qtype.bits < 8 or (qtype.bits == 16 and not options.rules.custom_ops)
