"""What changed in meaning between opsets 7 and 23 of the default domain: one rule for each operator and version.

Source: ONNX's operator changelog. A version that only adds types, or attributes whose default is the old
behaviour, needs no rule.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vqonnx.errors import UnsupportedModelError
from vqonnx.graph import edit, walk
from vqonnx.graph.names import NameAllocator


@dataclass(frozen=True, slots=True)
class Site:
    """A node to bring up one version, and where names for new values come from."""

    node: ir.Node
    names: NameAllocator

    def set_input(self, position: int, array: np.ndarray, role: str) -> None:
        """Make a new constant the node's input ``position``; inputs before it that are missing stay absent."""
        node = self.node
        if len(node.inputs) <= position:
            node.resize_inputs(position + 1)
        node.replace_input_with(position, self._constant(array, role))

    def _constant(self, array: np.ndarray, role: str) -> ir.Value:
        graph = self.node.graph
        if not isinstance(graph, ir.Graph):  # pragma: no cover - upgrades walk graphs
            raise UnsupportedModelError(f"node {self.node.name!r} is in no graph", node=self.node.name)
        return edit.add_initializer(graph, self.names.unique(f"{self.node.name or self.node.op_type}_{role}"), array)

    def refuse(self, fact: str) -> UnsupportedModelError:
        """The error that says why this node cannot be brought up."""
        name = self.node.name or self.node.outputs[0].name  # many exports name values only
        return UnsupportedModelError(
            f"cannot raise the opset of node {name!r} ({self.node.op_type}): {fact}. "
            "Export the model with a newer opset.",
            node=name,
        )


Rule = Callable[[Site], None]
RULES: dict[tuple[str, int], Rule] = {}


def rule(version: int, *ops: str) -> Callable[[Rule], Rule]:
    """Register what ``ops`` need when the opset becomes ``version``."""

    def register(function: Rule) -> Rule:
        for op in ops:
            if (op, version) in RULES:
                raise ValueError(f"{op} has a rule for opset {version} already: {RULES[op, version].__name__}")
            RULES[op, version] = function
        return function

    return register


def _ints_to_input(site: Site, name: str, position: int) -> None:
    attribute = site.node.attributes.pop(name, None)
    if attribute is not None:
        site.set_input(position, np.array(attribute.as_ints(), np.int64), name)


def _input_dtype(site: Site) -> np.dtype:
    value = site.node.inputs[0]
    if value is None or value.dtype is None:
        raise site.refuse("the type of its first input is not known")
    return value.dtype.numpy()


@rule(9, "BatchNormalization")
def _spatial_is_fixed(site: Site) -> None:
    attribute = site.node.attributes.pop("spatial", None)
    if attribute is not None and attribute.as_int() != 1:
        raise site.refuse("spatial=0 has no later form")


@rule(14, "BatchNormalization")
def _no_training_outputs(site: Site) -> None:
    if any(output.uses() or output.is_graph_output() for output in site.node.outputs[1:]):
        raise site.refuse("it returns training statistics")
    site.node.resize_outputs(1)


@rule(9, "Upsample")
def _scales_to_input(site: Site) -> None:
    scales = site.node.attributes.pop("scales")
    site.set_input(1, np.array(scales.as_floats(), np.float32), "scales")


@rule(10, "Upsample")
def _upsample_is_resize(site: Site) -> None:
    site.node.op_type = "Resize"


@rule(9, "Scan")
def _scan_lost_its_batch(site: Site) -> None:
    raise site.refuse("its inputs had a batch axis and lengths until opset 8")


@rule(10, "Slice")
def _slice_bounds_to_inputs(site: Site) -> None:
    for position, name in enumerate(("starts", "ends", "axes"), start=1):
        _ints_to_input(site, name, position)


@rule(10, "TopK")
def _k_to_input(site: Site) -> None:
    site.set_input(1, np.array([site.node.attributes.pop("k").as_int()], np.int64), "k")


@rule(10, "Dropout")
def _mask_is_boolean(site: Site) -> None:
    if any(output.uses() or output.is_graph_output() for output in site.node.outputs[1:]):
        raise site.refuse("its mask output has another type from opset 10 on")


@rule(12, "Dropout")
def _ratio_to_input(site: Site) -> None:
    ratio = site.node.attributes.pop("ratio", None)
    if ratio is not None:
        site.set_input(1, np.array(ratio.as_float(), np.float32), "ratio")


@rule(11, "Clip")
def _bounds_to_inputs(site: Site) -> None:
    for position, name in enumerate(("min", "max"), start=1):
        bound = site.node.attributes.pop(name, None)
        if bound is not None:
            site.set_input(position, np.array(bound.as_float()).astype(_input_dtype(site)), name)


@rule(11, "Pad")
def _pads_to_inputs(site: Site) -> None:
    value = site.node.attributes.pop("value", None)
    _ints_to_input(site, "pads", 1)
    if value is not None and value.as_float() != 0:
        site.set_input(2, np.array(value.as_float()).astype(_input_dtype(site)), "value")


@rule(11, "Scatter")
def _scatter_is_renamed(site: Site) -> None:
    site.node.op_type = "ScatterElements"


@rule(11, "Resize")
def _old_resize_is_asymmetric(site: Site) -> None:
    """Resize-10 maps pixel x to x / scale and, when nearest, rounds as ORT's kernel does: down, but up in shrinking."""
    node = site.node
    scales = node.inputs[1]
    node.attributes.add(ir.AttrString("coordinate_transformation_mode", "asymmetric"))
    if node.attributes.get_string("mode", "nearest") == "nearest":
        node.attributes.add(ir.AttrString("nearest_mode", _nearest_mode(site, scales)))
    site.set_input(1, np.array([], np.float32), "roi")
    node.resize_inputs(3)
    node.replace_input_with(2, scales)


def _nearest_mode(site: Site, scales: ir.Value | None) -> str:
    known = walk.constant(scales)
    if known is None:
        raise site.refuse("its scales are computed, and how opset 10 rounds depends on them")
    shrinks, grows = bool(np.any(known < 1)), bool(np.any(known > 1))
    if shrinks and grows:
        raise site.refuse("it shrinks one axis and grows another, which opset 10 rounds differently")
    return "ceil" if shrinks else "floor"


@rule(13, "Resize")
def _tf_nearest_is_half_pixel(site: Site) -> None:
    """floor((x + 0.5) / scale), the removed mode, rounds the half-pixel coordinate to nearest, ties up."""
    attributes = site.node.attributes
    if attributes.get_string("coordinate_transformation_mode") != "tf_half_pixel_for_nn":
        return
    if attributes.get_string("mode", "nearest") != "nearest":
        raise site.refuse("tf_half_pixel_for_nn with interpolation has no later form")
    attributes.add(ir.AttrString("coordinate_transformation_mode", "half_pixel"))
    attributes.add(ir.AttrString("nearest_mode", "round_prefer_ceil"))


@rule(13, "Squeeze", "Unsqueeze", "ReduceSum")
@rule(
    18,
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
)
def _axes_to_input(site: Site) -> None:
    _ints_to_input(site, "axes", 1)


@rule(13, "Split")
def _split_to_input(site: Site) -> None:
    _ints_to_input(site, "split", 1)


@rule(18, "Split")
def _split_counts_its_outputs(site: Site) -> None:
    if len(site.node.inputs) < 2 or site.node.inputs[1] is None:
        site.node.attributes.add(ir.AttrInt64("num_outputs", len(site.node.outputs)))


@rule(13, "Softmax", "LogSoftmax", "Hardmax")
def _softmax_over_one_axis(site: Site) -> None:
    """Until opset 12 all axes from ``axis`` (default 1) on were one; where that is the last alone, nothing changes."""
    node = site.node
    axis = node.attributes.get_int("axis", 1)
    data = node.inputs[0]
    rank = None if data is None or data.shape is None else len(data.shape)
    node.attributes.add(ir.AttrInt64("axis", -1))
    if data is None or axis == -1 or (rank is not None and axis == rank - 1):
        return
    base = node.name or node.op_type
    flat = edit.make_node(site.names, "Flatten", [data], {"axis": axis}, name=f"{base}_flatten")
    shape = edit.make_node(site.names, "Shape", [data], name=f"{base}_shape")
    result = node.outputs[0]
    back = edit.make_node(site.names, "Reshape", [result, shape.outputs[0]], name=f"{base}_reshape")
    edit.insert_before(node, [flat, shape])
    node.replace_input_with(0, flat.outputs[0])
    edit.insert_after(node, back)
    edit.replace_uses(result, back.outputs[0], site.names, keep={back})
    back.outputs[0].type, back.outputs[0].shape = result.type, result.shape
    result.shape = None


@rule(16, "RoiAlign")
def _roi_align_had_no_half_pixel(site: Site) -> None:
    site.node.attributes.add(ir.AttrString("coordinate_transformation_mode", "output_half_pixel"))


@rule(20, "GridSample")
def _grid_sample_modes(site: Site) -> None:
    mode = site.node.attributes.get_string("mode", "bilinear")
    site.node.attributes.add(ir.AttrString("mode", {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)))


@rule(20, "DFT")
def _dft_axis_to_input(site: Site) -> None:
    axis = site.node.attributes.pop("axis", None)
    site.set_input(2, np.array(1 if axis is None else axis.as_int(), np.int64), "axis")


@rule(21, "GroupNormalization")
def _group_normalization_per_channel(site: Site) -> None:
    raise site.refuse("scale and bias are per channel from opset 21 on")
