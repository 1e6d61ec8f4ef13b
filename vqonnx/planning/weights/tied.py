"""Weights that are one: the same constant read in the same sense, equal copies, and transposed copies."""

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from itertools import product
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vqonnx.graph.weight_source import behind, packed_strides
from vqonnx.planning.weights.layers import Layer

Tied: TypeAlias = tuple[Layer, ...]
"""Layers with the same W [K, N], in graph order."""

_T = TypeVar("_T")
_PROBES = 16
_TILE = 512
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def tie(layers: Sequence[Layer]) -> list[Tied]:
    """Group the layers whose W [K, N] is the same, bit for bit; groups and members in graph order.

    A table [V, D] that a Gather reads and its copy [D, V] that a product reads are one weight, W [D, V] for both. A
    constant that one product reads as [K, N] and another one transposed makes two. Constants are told apart by type
    and shape, then by a few numbers; those that still look alike are compared tile by tile until they differ.
    """
    position = {layer.node: index for index, layer in enumerate(layers)}
    of_one_constant = [tuple(group) for group in _grouped(layers, _identity)]
    found: list[Tied] = []
    for alike in _grouped(of_one_constant, lambda tied: _form(tied[0])):
        for suspects in _grouped(alike, lambda tied: _probed(tied[0])) if len(alike) > 1 else [alike]:
            found.extend(_merged(suspects))
    ordered = [tuple(sorted(group, key=lambda layer: position[layer.node])) for group in found]
    return sorted(ordered, key=lambda group: position[group[0].node])


def float_readers(root: ir.Value, packed: Collection[tuple[ir.Node, int]]) -> list[str]:
    """Names of the nodes and graph outputs that go on reading a constant when these inputs of nodes no longer do."""
    found: dict[str, None] = {}
    pending = [root]
    while pending:
        value = pending.pop()
        if value.is_graph_output():
            found[f"output {value.name}"] = None
        for node, index in value.uses():
            forms = [output for output in node.outputs if behind(output) is value]
            pending.extend(forms)
            if not forms and (node, index) not in packed:
                found[node.name or ""] = None
    return list(found)


def _grouped(items: Iterable[_T], key: Callable[[_T], Hashable]) -> list[list[_T]]:
    groups: defaultdict[Hashable, list[_T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return list(groups.values())


def _identity(layer: Layer) -> Hashable:
    """Equal for layers that read one constant in the same sense."""
    return layer.weight.root, layer.weight.in_root, _strides(layer), _result(layer)


def _result(layer: Layer) -> Hashable:
    """What becomes of a constant before the layer multiplies by it, but for the order of its numbers."""
    source = layer.weight
    return source.arithmetic, source.dtype, layer.alpha, layer.in_features, layer.out_features


def _strides(layer: Layer) -> tuple[int, ...]:
    """Strides of W [K, N] in the stored constant, without axes of size 1."""
    source = layer.weight
    strides = [stride for size, stride in zip(source.shape, source.strides, strict=True) if size > 1]
    return tuple(reversed(strides) if layer.transposed else strides)


def _orders(layer: Layer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The strides that W [K, N] has when stored row by row, and when stored column by column."""
    shape = [size for size in (layer.in_features, layer.out_features) if size > 1]
    return packed_strides(shape), packed_strides(shape[::-1])[::-1]


def _form(layer: Layer) -> Hashable:
    """Equal for layers whose constants are worth comparing."""
    if layer.weight.in_root and _strides(layer) in _orders(layer):
        return layer.weight.root.dtype, _result(layer)
    return layer.node


def _probed(layer: Layer) -> Hashable:
    """A few numbers of W [K, N], at places that depend on K and N alone."""
    rng = np.random.default_rng(0)
    rows, columns = (rng.integers(size, size=_PROBES) for size in (layer.in_features, layer.out_features))
    probes = _stored(layer)[rows, columns].tobytes()
    layer.weight.release()
    return probes


def _stored(layer: Layer) -> npt.NDArray[np.unsignedinteger]:
    """The constant before all arithmetic as a matrix [K, N] of bit patterns; a map where it lies in a file."""
    flat = layer.weight.read_root().reshape(-1)
    patterns = flat.view(_UNSIGNED[flat.dtype.itemsize])
    k, n = layer.in_features, layer.out_features
    by_rows, _ = _orders(layer)
    return patterns.reshape(k, n) if _strides(layer) == by_rows else patterns.reshape(n, k).T


def _merged(suspects: Sequence[Tied]) -> list[Tied]:
    """The groups, joined where their constants are equal."""
    joined: list[Tied] = []
    for tied in suspects:
        twin = next((index for index, group in enumerate(joined) if _are_equal(group[0], tied[0])), None)
        if twin is None:
            joined.append(tied)
        else:
            joined[twin] += tied
    return joined


def _are_equal(first: Layer, second: Layer) -> bool:
    left, right = _stored(first), _stored(second)
    starts = product(*(range(0, size, _TILE) for size in left.shape))
    tiles = ((slice(row, row + _TILE), slice(column, column + _TILE)) for row, column in starts)
    equal = all(np.array_equal(left[tile], right[tile]) for tile in tiles)
    del left, right
    first.weight.release()
    second.weight.release()
    return equal
