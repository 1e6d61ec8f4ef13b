"""What attributes and inputs of a node mean, the same over the opsets that say it differently."""

import math

import onnx_ir as ir

from vqonnx.graph.walk import constant, constant_tensor

ONE_AXIS = 13
"""Opset from which on a Softmax normalizes one axis."""


def operator_key(node: ir.Node) -> str:
    """``op_type`` in the default domain, ``domain::op_type`` elsewhere."""
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def opset_of(node: ir.Node) -> int | None:
    """The version of its domain that says what a node means; None where its graph does not tell."""
    return node.version or (node.graph.opset_imports.get(node.domain) if node.graph is not None else None)


def int_attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def float_attribute(node: ir.Node, name: str, default: float) -> float:
    """A float attribute, or its default."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_float()


def clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    """Bounds of a Relu or Clip (any opset), -inf and inf where open; None if computed at run time."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    bounds = []
    for index, (attribute, default) in enumerate((("min", -math.inf), ("max", math.inf)), start=1):
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is None:
            bounds.append(float_attribute(node, attribute, default))
            continue
        array = constant(value)
        if array is None:
            return None
        bounds.append(float(array.reshape(())))
    return bounds[0], bounds[1]


def softmax_axes(node: ir.Node, rank: int) -> tuple[int, ...]:
    """The axes that a Softmax normalizes together, each >= 0: all from ``axis`` on before opset 13, that one since."""
    one = (opset_of(node) or ONE_AXIS) >= ONE_AXIS
    axis = int_attribute(node, "axis", -1 if one else 1)
    first = axis + rank if axis < 0 else axis
    return tuple(range(first, rank))[: 1 if one else rank]


def pad_fill(node: ir.Node) -> float | None:
    """What a Pad fills with (any opset); 0 where it repeats what is there, None where it is computed at run time."""
    if node.attributes.get_string("mode", "constant") != "constant":
        return 0.0
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return float_attribute(node, "value", 0.0)
    fill = constant(value)
    return None if fill is None else float(fill.reshape(()))


def reduced_axes(node: ir.Node, rank: int) -> tuple[int, ...] | None:
    """The axes that a Reduce operator reduces, each >= 0, in order; None where they are not constant.

    They are an attribute before opset 18 (ReduceSum: 13) and an input since. Without any, all are reduced, or, with
    ``noop_with_empty_axes``, none.
    """
    attribute, value = node.attributes.get("axes"), node.inputs[1] if len(node.inputs) > 1 else None
    if attribute is not None:
        axes = None if attribute.is_ref() else tuple(attribute.as_ints())
    elif value is not None:
        numbers = constant(value)
        axes = None if numbers is None else tuple(int(axis) for axis in numbers.reshape(-1))
    else:
        axes = ()
    if axes is None:
        return None
    if not axes:
        return () if int_attribute(node, "noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(axis % rank for axis in axes))


def conv_pads(node: ir.Node) -> tuple[int, ...] | None:
    """Zeros that a Conv adds before each axis of space, and then behind each; None where shapes do not tell.

    ``auto_pad`` SAME_UPPER and SAME_LOWER make the output ceil(input / stride) long (ONNX Conv-22).
    """
    kernel = _lengths(node.inputs[1])
    if kernel is None:
        return None
    ones, mode = (1,) * len(kernel), node.attributes.get_string("auto_pad", "NOTSET")
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        given = node.attributes.get_ints("pads", ()) if mode == "NOTSET" else ()
        return tuple(given or ()) or (0,) * (2 * len(kernel))
    lengths = _lengths(node.inputs[0])
    if lengths is None:
        return None
    strides = node.attributes.get_ints("strides", ones) or ones
    dilations = node.attributes.get_ints("dilations", ones) or ones
    totals = [
        max(0, (-(-length // stride) - 1) * stride + (size - 1) * dilation + 1 - length)
        for length, stride, size, dilation in zip(lengths, strides, kernel, dilations, strict=True)
    ]
    smaller, larger = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return tuple(smaller + larger if mode == "SAME_UPPER" else larger + smaller)


def _lengths(value: ir.Value | None) -> tuple[int, ...] | None:
    """The axes of space of a value, [.., .., space …]; None where one is not known."""
    if value is None or value.shape is None:
        return None
    space = tuple(size for size in value.shape[2:] if isinstance(size, int))
    return space if len(space) == len(value.shape) - 2 else None


def linear_add(matmul: ir.Node) -> tuple[ir.Node, int] | None:
    """The Add that gives a MatMul its bias, and the index of the bias among its inputs; None if there is none.

    That is an Add of a constant vector [N] (or [1, .., N]) that alone reads the product with a constant [K, N].
    """
    weight = constant_tensor(matmul.inputs[1]) if matmul.op_type == "MatMul" else None
    product = matmul.outputs[0]
    if weight is None or len(weight.shape) != 2 or product.is_graph_output() or len(product.uses()) != 1:
        return None
    add, index = next(iter(product.uses()))
    if add.op_type != "Add" or add.domain or add.graph is not matmul.graph:
        return None
    bias = constant_tensor(add.inputs[1 - index])
    columns = weight.shape.numpy()[1]
    if bias is None or bias.size != columns or bias.shape.numpy()[-1:] != (columns,):
        return None
    return add, 1 - index
