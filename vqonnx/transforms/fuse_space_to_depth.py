"""SpaceToDepth written out with Reshape and Transpose, as one node."""

import onnx_ir as ir

from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import nested_graphs
from vqonnx.transforms.patterns import Anything, Match, Operator, find, op

_X = Anything()
_SPLIT = op("Reshape", _X)
_BLOCKS_LAST = op("Transpose", _SPLIT)
_FLAT = op("Reshape", _BLOCKS_LAST)
_BLOCK_BEFORE_PLACE = op("Transpose", _FLAT)
_PLACES = op("Reshape", _BLOCK_BEFORE_PLACE)
_BLOCK_BEFORE_CHANNEL = op("Transpose", _PLACES)
_WHOLE = op("Reshape", _BLOCK_BEFORE_CHANNEL)

_PERMUTATIONS = {
    _BLOCKS_LAST: [0, 1, 2, 4, 3, 5],
    _BLOCK_BEFORE_PLACE: [0, 1, 3, 2],
    _BLOCK_BEFORE_CHANNEL: [0, 2, 1, 3, 4],
}


def fuse_space_to_depths(model: ir.Model) -> int:
    """Turn each SpaceToDepth that is written out as in early YOLO models into the operator; return how many.

    x [N, C, H, W] becomes [N, b b C, H / b, W / b] with the place in a block before the channel, as the operator has
    it (ONNX SpaceToDepth-13). All shapes must be known; nothing is done where a value inside is read by another node.
    Bodies are included.
    """
    names = NameAllocator.of(model)
    roots = [node for graph in nested_graphs(model.graph) for node in graph if node.op_type == "Reshape"]
    return sum(_fuse(root, names) for root in reversed(roots))


def _fuse(root: ir.Node, names: NameAllocator) -> bool:
    found = find(_WHOLE, root) if root.graph is not None else None
    size = None if found is None else _block_size(found)
    if found is None or size is None:
        return False
    found.replace("SpaceToDepth", [found[_X]], {"blocksize": size}, names)
    return True


def _block_size(found: Match) -> int | None:
    """The side of a block; None where these are other shapes and orders of axes."""
    if any(_permutation(found, part) != order for part, order in _PERMUTATIONS.items()):
        return None
    x, split = _shape(found[_X]), _shape(found[_SPLIT])
    if x is None or split is None or len(x) != 4 or len(split) != 6:
        return None
    batch, channels, height, width = x
    size = split[3]
    rows, columns = height // size, width // size
    wanted = {
        _SPLIT: (batch, channels, rows, size, columns, size),
        _FLAT: (batch, channels, rows * columns, size * size),
        _PLACES: (batch, channels, size * size, rows, columns),
        _WHOLE: (batch, size * size * channels, rows, columns),
    }
    return size if all(_shape(found[part]) == shape for part, shape in wanted.items()) else None


def _shape(value: ir.Value) -> tuple[int, ...] | None:
    if value.shape is None or not value.shape.is_static():
        return None
    return tuple(value.shape.numpy())


def _permutation(found: Match, part: Operator) -> list[int] | None:
    order = found.node(part).attributes.get("perm")
    return None if order is None else list(order.as_ints())
