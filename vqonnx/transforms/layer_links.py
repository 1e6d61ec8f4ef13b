"""Which layers read the channels that another computes, through nothing but operators that a factor passes through."""

from dataclasses import dataclass, field

import onnx_ir as ir

from vqonnx.graph.facts import clip_bounds, int_attribute
from vqonnx.transforms.homogeneous import Track, channels, passed_on
from vqonnx.transforms.linear import OPERATORS, Linear, as_linear

_TYPES = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.BFLOAT16})
"""Not float16: without samples nobody knows whether a scaled activation would leave its range."""
_MOST_READERS = 64
"""Readers followed from one layer: dense blocks have dozens, and all layers together must stay linear."""


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """A layer that reads another's channels: channel c as ``repeat`` inputs from ``first + c * repeat`` on."""

    linear: Linear
    first: int
    repeat: int


@dataclass(frozen=True, slots=True, eq=False)
class Link:
    """A layer and all the layers that read what it computes, activated, pooled, padded or joined as may be.

    Multiply output channel c of the head by s > 0 and divide what the tails do with it: no output of the model
    changes, once the bounds of the clips in between are multiplied too.
    """

    head: Linear
    tails: tuple[Tail, ...]
    clips: tuple[ir.Node, ...]


def layer_links(graph: ir.Graph, *, through_clips: bool = False) -> list[Link]:
    """The links of ``graph``, in its order.

    Layers are Conv, ConvTranspose and Gemm with constant weights that no other node reads, in float32, float64 or
    bfloat16. All that reads the head's output must end in such layers: a graph output, a reader in a body or any
    operator that ``homogeneous`` does not know makes it no link.

    Args:
        graph: Of a prepared model: shapes known, BatchNormalizations folded or made Convs.
        through_clips: Go on behind a Clip with other bounds than zero and none, where no Concat was before it.
    """
    heads = [linear for node in graph if (linear := _own_linear(node)) is not None]
    links = (_Search(graph, head, through_clips).link() for head in heads)
    return [link for link in links if link is not None]


def _own_linear(node: ir.Node) -> Linear | None:
    """``node`` as a layer whose weight may change; else None."""
    linear = as_linear(node)
    if linear is None or linear.weight.dtype not in _TYPES:
        return None
    weight = node.inputs[1]
    return linear if weight is not None and len(weight.uses()) == 1 and not weight.is_graph_output() else None


@dataclass(slots=True, eq=False)
class _Search:
    """What was found on the way from one head; ends where a reader is out of sight."""

    graph: ir.Graph
    head: Linear
    through_clips: bool
    tails: list[Tail] = field(default_factory=list)
    clips: list[ir.Node] = field(default_factory=list)
    readers: int = 0

    def link(self) -> Link | None:
        pending = [Track(self.head.node.outputs[0])]
        while pending:
            onward = self._behind(pending.pop())
            if onward is None:
                return None
            pending.extend(onward)
        return Link(self.head, tuple(self.tails), tuple(self.clips)) if self.tails else None

    def _behind(self, track: Track) -> list[Track] | None:
        """The tracks behind each reader that is no layer; None where one ends the search."""
        uses = track.value.uses()
        self.readers += len(uses)
        if track.value.is_graph_output() or self.readers > _MOST_READERS:
            return None
        onward = []
        for node, index in uses:
            if node.graph is not self.graph:
                return None
            if not self._ends_in(node, index, track):
                further = passed_on(node, index, track) or self._clipped(node, index, track)
                if further is None:
                    return None
                onward.append(further)
        return onward

    def _ends_in(self, node: ir.Node, index: int, track: Track) -> bool:
        linear = _own_linear(node) if node.op_type in OPERATORS and index == 0 else None
        if linear is None or int_attribute(node, "transA", 0):
            return False
        self.tails.append(Tail(linear, track.first, track.repeat))
        return True

    def _clipped(self, node: ir.Node, index: int, track: Track) -> Track | None:
        if not self.through_clips or node.op_type != "Clip" or node.domain or index != 0 or clip_bounds(node) is None:
            return None
        if channels(track.value) != self.head.output.channels:  # joined with others, whose bounds stay
            return None
        self.clips.append(node)
        return Track(node.outputs[0])
