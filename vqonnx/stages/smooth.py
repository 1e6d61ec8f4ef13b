"""Smooth: divide the channels of what products read, and multiply their weights, so that outliers cost both less.

Exact in float. The factors go into the constants before the activation where that can be done, else into a Mul.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from vqonnx.calibration.feeds import Feed
from vqonnx.calibration.statistics import Statistic
from vqonnx.calibration.statistics.channel_ends import ChannelEnds
from vqonnx.graph.edit import add_initializer, insert_before, make_node
from vqonnx.graph.facts import int_attribute, operator_key
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import constant_tensor
from vqonnx.kernels.smooth import F64, smoothing_factors
from vqonnx.stages.observe import ObserveOptions, observe
from vqonnx.transforms.fold_scales import foldable
from vqonnx.transforms.weights import float_constant, set_constant, stored


@dataclass(frozen=True, slots=True)
class Smoothing:
    """How activations are smoothed.

    Attributes:
        alpha: Share of the activation's range in the factors, in [0, 1].
        fold: Put the factors into the constants before the activation where they can go.
    """

    alpha: float = 0.5
    fold: bool = True


@dataclass(frozen=True, slots=True)
class _Read:
    """An activation [.., K], or [N, K, ..] before Convs, and the products that read it."""

    value: ir.Value
    readers: tuple[ir.Node, ...]

    @property
    def is_image(self) -> bool:
        """Whether its channels are its second axis."""
        return self.readers[0].op_type == "Conv"

    @property
    def axis(self) -> int:
        """The axis of its channels."""
        return 1 if self.is_image else len(self.value.shape or ()) - 1

    def largest_weights(self) -> F64:
        """[K]: the largest magnitude that meets each channel."""
        weights = [_rows(node) for node in self.readers]
        each = [np.abs(rows).reshape(len(rows), -1).max(axis=1, initial=0.0) for rows in weights]
        largest: F64 = np.max(each, axis=0)
        return largest


def smooth(
    model: ir.Model, feeds: Sequence[Feed], smoothing: Smoothing, options: ObserveOptions | None = None
) -> list[str]:
    """Smooth what MatMuls, Gemms and dense Convs with constant weights read, in place.

    Args:
        model: A prepared model.
        feeds: Calibration samples.
        smoothing: How.
        options: How to run the samples; nothing is cached.

    Returns:
        Names of the nodes that divide where no constant could.

    Raises:
        SampleError: There are no samples, or the model cannot run one.
    """
    found = _reads(model)
    if not found:
        return []
    options = replace(options or ObserveOptions(), cache=None)
    wanted: dict[str, Statistic] = {read.value.name or "": ChannelEnds(axis=read.axis) for read in found}
    ends = observe(model, wanted, feeds, options).tensors
    names = NameAllocator.of(model)
    divisions = (_smooth(read, ends, smoothing, names) for read in found)
    return [name for name in divisions if name is not None]


def _reads(model: ir.Model) -> list[_Read]:
    readers: dict[tuple[ir.Value, bool], list[ir.Node]] = {}
    for node in model.graph:
        source = node.inputs[0] if node.inputs else None
        if source is not None and source.shape is not None and constant_tensor(source) is None and _multiplies(node):
            readers.setdefault((source, node.op_type == "Conv"), []).append(node)
    return [_Read(value, tuple(nodes)) for (value, _), nodes in readers.items()]


def _multiplies(node: ir.Node) -> bool:
    plain = not int_attribute(node, "transA", 0) and int_attribute(node, "group", 1) == 1
    weight = float_constant(node.inputs[1]) if plain and operator_key(node) in ("Conv", "Gemm", "MatMul") else None
    return weight is not None and weight.size > 0 and (weight.ndim == 2 or node.op_type == "Conv")


def _rows(node: ir.Node) -> F64:
    """The weight of a product as [K, ..]."""
    weight = float_constant(node.inputs[1])
    assert weight is not None
    return np.swapaxes(weight, 0, 1) if _has_rows_second(node) else weight


def _has_rows_second(node: ir.Node) -> bool:
    return node.op_type == "Conv" or int_attribute(node, "transB", 0) == 1


def _smooth(read: _Read, ends: Mapping[str, Statistic], smoothing: Smoothing, names: NameAllocator) -> str | None:
    """Smooth one activation; the name of the node that divides it, if it takes one."""
    found = ends[read.value.name or ""]
    assert isinstance(found, ChannelEnds)
    lows, highs = found.ends
    weights = read.largest_weights()
    if lows.shape != weights.shape:
        return None  # no sample, or broadcast
    factors = smoothing_factors(np.maximum(-lows, highs), weights, smoothing.alpha)
    changed = [_multiplied(node, factors) for node in read.readers]
    if any(weight is None for weight in changed):
        return None
    fold = foldable(read.value, read.readers, factors.size) if smoothing.fold else None
    folded = fold is not None and fold.apply(1 / factors, names)
    division = None if folded else _divide(read, 1 / factors, names)
    for node, weight in zip(read.readers, changed, strict=True):
        assert weight is not None
        set_constant(node, 1, weight, names, f"{node.name}_weight")
    return division


def _multiplied(node: ir.Node, factors: F64) -> np.ndarray | None:
    """The weight for an activation that was divided; None where its type cannot hold it."""
    old, weight = _rows(node), node.inputs[1]
    rows = old * factors.reshape(-1, *[1] * (old.ndim - 1))
    assert weight is not None
    assert weight.dtype is not None
    return stored(np.swapaxes(rows, 0, 1) if _has_rows_second(node) else rows, weight.dtype)


def _divide(read: _Read, factors: F64, names: NameAllocator) -> str | None:
    value, first = read.value, read.readers[0]
    assert first.graph is not None
    assert value.dtype is not None
    graph = first.graph
    assert isinstance(graph, ir.Graph)
    if read.is_image:
        factors = factors.reshape(-1, *[1] * (len(value.shape or ()) - 2))
    scales = add_initializer(graph, names.unique(f"{value.name}_smooth_scale"), factors.astype(value.dtype.numpy()))
    node = make_node(names, "Mul", [value, scales], name=f"{value.name}_smooth_mul")
    node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
    insert_before(first, node)
    for reader in read.readers:
        reader.replace_input_with(0, node.outputs[0])
    return node.name
