"""Cross-layer equalization: the channels between two layers get weights of one size on both sides.

Per-tensor codes then serve all channels of both weights. The outputs stay what they are (Nagel et al. 2019,
arXiv:1906.04721, section 4.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vqonnx.errors import UnsupportedModelError
from vqonnx.graph.edit import add_initializer, make_node, replace_node
from vqonnx.graph.facts import clip_bounds
from vqonnx.graph.names import NameAllocator
from vqonnx.kernels.equalize import bias_shrinkage, pair_factors
from vqonnx.transforms.layer_links import Link, Tail, layer_links
from vqonnx.transforms.linear import Linear
from vqonnx.transforms.weights import F64, set_constant, stored

_STEADY = 1e-3
"""Factors this close to 1 change nothing that 8-bit codes could show."""
_FARTHEST = 1024.0
"""No channel is scaled further than this, either way: a dead one would be, to infinity, and its bias with it."""

_MIN_BROADCASTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossLayerEqualization:
    """How to equalize layers.

    Attributes:
        rounds: How often all links are gone through; fewer if nothing changes any more.
        count_bias: Count the head's bias as one more weight of its channel (``kernels.equalize.bias_shrinkage``).
        least: Channels whose ranges on both sides add up to less stay as they are; see ``pair_factors``.
        through_clips: Go through Clips with finite bounds, which become Relu or Max and Min with a bound for each
            channel. Exact too, but these are not what integer kernels are fused from.
    """

    rounds: int = 100
    count_bias: bool = True
    least: float = 0.0
    through_clips: bool = False


def equalize_layers(model: ir.Model, options: CrossLayerEqualization = CrossLayerEqualization()) -> int:
    """Scale the channels between layers of the main graph, in place; return how many links changed.

    Outputs stay equal up to rounding, about 1e-6 of their size. See ``layer_links`` for what a link is; where one
    layer is the tail of one and the head of another, all are brought into balance together.

    Args:
        model: A prepared model.
        options: How.

    Raises:
        UnsupportedModelError: The way leads through Clips, and the opset is below 8, where Min does not broadcast.
    """
    opset = model.opset_imports.get("", 0)
    if options.through_clips and opset < _MIN_BROADCASTS:
        raise UnsupportedModelError(
            f"bounds for each channel need opset {_MIN_BROADCASTS}, the model has {opset}. Raise the opset first."
        )
    links = layer_links(model.graph, through_clips=options.through_clips)
    weights = _weights(links)
    factors = [np.ones(link.head.output.channels) for link in links]
    shrinkage = [
        bias_shrinkage(link.head.bias(), _head_range(link, weights)) if options.count_bias else np.inf for link in links
    ]
    for _ in range(options.rounds):
        moved = 0.0
        for link, total, shrunk in zip(links, factors, shrinkage, strict=True):
            head = np.maximum(_head_range(link, weights), np.abs(link.head.bias()) * total / shrunk)
            step = pair_factors(head, _tail_range(link, weights), least=options.least)
            step = np.clip(total * step, 1 / _FARTHEST, _FARTHEST) / total
            moved = max(moved, float(np.abs(step - 1).max(initial=0.0)))
            _scale(link, step, weights)
            total *= step
        if moved < _STEADY:
            break
    return _apply(model, links, factors)


_Weights = dict[ir.Node, F64]
"""By layer, the largest magnitude of its weight over positions, [groups, outputs, inputs], scaled as it goes."""


def _weights(links: Sequence[Link]) -> _Weights:
    linears = {one.node: one for link in links for one in (link.head, *(tail.linear for tail in link.tails))}
    return {node: np.abs(linear.blocks()).max(axis=3) for node, linear in linears.items()}


def _head_range(link: Link, weights: _Weights) -> F64:
    return np.asarray(weights[link.head.node].max(axis=2).reshape(-1))


def _tail_range(link: Link, weights: _Weights) -> F64:
    count = link.head.output.channels
    ranges = (weights[tail.linear.node].max(axis=1).reshape(-1)[_columns(tail, count)] for tail in link.tails)
    return np.max([columns.reshape(count, -1).max(axis=1) for columns in ranges], axis=0)  # type: ignore[no-any-return]


def _columns(tail: Tail, count: int) -> slice:
    return slice(tail.first, tail.first + count * tail.repeat)


def _scale(link: Link, step: F64, weights: _Weights) -> None:
    head = weights[link.head.node]
    head *= step.reshape(head.shape[0], -1, 1)
    for tail in link.tails:
        blocks = weights[tail.linear.node]
        blocks /= _spread(tail, step).reshape(blocks.shape[0], 1, -1)


def _spread(tail: Tail, factors: F64) -> F64:
    """A factor for each input of ``tail``: those of the link, and 1 for channels of others."""
    spread = np.ones(tail.linear.inputs)
    spread[_columns(tail, len(factors))] = np.repeat(factors, tail.repeat)
    return spread


@dataclass(frozen=True, slots=True, eq=False)
class _Scales:
    """What the outputs and inputs of one layer are multiplied by, [channels] each."""

    linear: Linear
    outputs: F64
    inputs: F64

    @classmethod
    def of(cls, linear: Linear) -> "_Scales":
        return cls(linear, np.ones(linear.output.channels), np.ones(linear.inputs))

    def weight(self) -> np.ndarray | None:
        return stored(self.linear.rescaled(outputs=self.outputs, inputs=self.inputs), self.linear.weight.dtype)

    def bias(self) -> np.ndarray | None:
        return stored(self.linear.bias() * self.outputs, self.linear.weight.dtype)


def _apply(model: ir.Model, links: Sequence[Link], factors: Sequence[F64]) -> int:
    """Scale weights, biases and bounds; 0, and nothing is done, where a number would overflow."""
    changed = [(link, one) for link, one in zip(links, factors, strict=True) if np.abs(one - 1).max() > _STEADY]
    scales: dict[ir.Node, _Scales] = {}
    for link, one in changed:
        outputs = scales.setdefault(link.head.node, _Scales.of(link.head)).outputs
        outputs *= one
        for tail in link.tails:
            inputs = scales.setdefault(tail.linear.node, _Scales.of(tail.linear)).inputs
            inputs *= _spread(tail, one)
    if any(scale.weight() is None or scale.bias() is None for scale in scales.values()):
        return 0
    names = NameAllocator.of(model)
    for node, scale in scales.items():
        _set(node, scale, names)
    for link, one in changed:
        for clip in link.clips:
            _scale_bounds(clip, one, names)
    return len(changed)


def _set(node: ir.Node, scale: _Scales, names: NameAllocator) -> None:
    weight, bias = scale.weight(), scale.bias()
    if weight is None or bias is None:  # pragma: no cover - _apply looked
        raise TypeError(f"the weight of {node.name!r} overflows")
    set_constant(node, 1, weight, names, f"{node.name}_weight")
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        set_constant(node, 2, bias, names, f"{node.name}_bias")


def _scale_bounds(clip: ir.Node, factors: F64, names: NameAllocator) -> None:
    """Put operators that clip each channel at its own bounds in the place of ``clip``."""
    x, bounds, graph = clip.inputs[0], clip_bounds(clip), clip.graph
    if x is None or x.shape is None or x.dtype is None or bounds is None or not isinstance(graph, ir.Graph):
        raise TypeError(f"the bounds of {clip.name!r} are not known")  # pragma: no cover - layer_links looked
    shape = (-1, *(1,) * (len(x.shape) - 2))
    value, new = x, []
    for op, bound in (("Max", bounds[0]), ("Min", bounds[1])):
        if np.isinf(bound):
            continue
        if op == "Max" and bound == 0:
            new.append(make_node(names, "Relu", [value]))
        else:
            limits = (bound * factors).reshape(shape).astype(x.dtype.numpy())
            constant = add_initializer(graph, names.unique(f"{clip.name}_{op.lower()}"), limits)
            new.append(make_node(names, op, [value, constant]))
        value = new[-1].outputs[0]
        value.type, value.shape = x.type, x.shape
    replace_node(clip, new, names)
