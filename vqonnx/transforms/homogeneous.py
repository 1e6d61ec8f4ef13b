"""Operators that a positive factor on a channel passes through: f(s * x) = s * f(x), for each channel on its own."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import onnx_ir as ir

from vqonnx.graph.facts import clip_bounds, float_attribute, int_attribute, reduced_axes
from vqonnx.graph.walk import constant

CHANNEL_AXIS = 1


@dataclass(frozen=True, slots=True)
class Track:
    """Where a layer's channels are on axis 1 of a value: channel c from ``first + c * repeat`` on, ``repeat`` times."""

    value: ir.Value
    first: int = 0
    repeat: int = 1


def passed_on(node: ir.Node, index: int, track: Track) -> Track | None:
    """Where the channels that ``node`` reads as input ``index`` are behind it.

    Covers activations that bend at zero alone, poolings, means and maxima over positions, padding by zeros or by what
    is there, resizing, Flatten and Reshape that keep the channels in order, and Concat of channels.

    Returns:
        None for other operators, and where sizes or bounds that decide are not known.
    """
    step = _STEPS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    return step(node, index, track) if step is not None else None


def channels(value: ir.Value | None) -> int | None:
    """The size of axis 1 where it is known."""
    if value is None or value.shape is None or len(value.shape) <= CHANNEL_AXIS:
        return None
    size = value.shape[CHANNEL_AXIS]
    return size if isinstance(size, int) else None


def _same(node: ir.Node, index: int, track: Track) -> Track | None:
    alone = not any(output.uses() or output.is_graph_output() for output in node.outputs[1:])
    return replace(track, value=node.outputs[0]) if index == 0 and alone else None


def _clip(node: ir.Node, index: int, track: Track) -> Track | None:
    bounds = clip_bounds(node)
    homogeneous = bounds is not None and all(bound == 0 or math.isinf(bound) for bound in bounds)
    return _same(node, index, track) if homogeneous else None


def _reduction(node: ir.Node, index: int, track: Track) -> Track | None:
    x = node.inputs[0]
    axes = None if x is None or x.shape is None else reduced_axes(node, len(x.shape))
    return _same(node, index, track) if axes is not None and min(axes, default=2) > CHANNEL_AXIS else None


def _pad(node: ir.Node, index: int, track: Track) -> Track | None:
    """Pad: the first ``pads`` of each half are those of axes 0 and 1, unless opset 18's ``axes`` says otherwise."""
    pads = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    attribute = node.attributes.get("pads")
    if attribute is not None and not attribute.is_ref():
        widths = list(attribute.as_ints())
    elif pads is not None:
        widths = [int(width) for width in pads]
    else:
        return None
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        return None
    half = len(widths) // 2
    outer = [*widths[: CHANNEL_AXIS + 1], *widths[half : half + CHANNEL_AXIS + 1]]
    return _same(node, index, track) if not any(outer) and _pads_homogeneously(node) else None


def _pads_homogeneously(node: ir.Node) -> bool:
    if node.attributes.get_string("mode", "constant") != "constant":
        return True
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return float_attribute(node, "value", 0.0) == 0
    numbers = constant(value)
    return numbers is not None and not numbers.any()


def _resize(node: ir.Node, index: int, track: Track) -> Track | None:
    sizes = channels(node.inputs[0]), channels(node.outputs[0])
    cropped = node.attributes.get_string("coordinate_transformation_mode") == "tf_crop_and_resize"
    return _same(node, index, track) if sizes[0] is not None and sizes[0] == sizes[1] and not cropped else None


def _regroup(node: ir.Node, index: int, track: Track) -> Track | None:
    """Flatten, Reshape, Squeeze, Unsqueeze: channels keep their order, with their positions apart or side by side."""
    before, after = _per_sample(node.inputs[0]), _per_sample(node.outputs[0])
    if before is None or after is None or math.prod(before) != math.prod(after):
        return None
    if before[0] == after[0]:
        return _same(node, index, track)
    if after[1] != 1:
        return None
    positions = before[1]
    return Track(node.outputs[0], track.first * positions, track.repeat * positions) if index == 0 else None


def _per_sample(value: ir.Value | None) -> tuple[int, int] | None:
    """Channels, and positions of each."""
    size = channels(value)
    if size is None or value is None or value.shape is None:
        return None
    spatial = [one for one in value.shape[CHANNEL_AXIS + 1 :] if isinstance(one, int)]
    return (size, math.prod(spatial)) if len(spatial) == len(value.shape) - 2 else None


def _concat(node: ir.Node, index: int, track: Track) -> Track | None:
    axis, shape = int_attribute(node, "axis", 0), track.value.shape
    if shape is None or axis % len(shape) != CHANNEL_AXIS:
        return None
    before = [channels(value) for value in node.inputs[:index]]
    known = [size for size in before if size is not None]
    return Track(node.outputs[0], track.first + sum(known), track.repeat) if len(known) == len(before) else None


_Step = Callable[[ir.Node, int, Track], Track | None]
_STEPS: Mapping[str, _Step] = MappingProxyType(
    {
        **dict.fromkeys(("Abs", "Identity", "LeakyRelu", "Neg", "PRelu", "Relu"), _same),
        **dict.fromkeys(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"), _same),
        **dict.fromkeys(("ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum"), _reduction),
        **dict.fromkeys(("Flatten", "Reshape", "Squeeze", "Unsqueeze"), _regroup),
        "Clip": _clip,
        "Concat": _concat,
        "Pad": _pad,
        "Resize": _resize,
    }
)
