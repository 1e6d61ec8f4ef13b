"""Division by the Euclidean length along an axis, written out, as one LpNormalization."""

import math

import onnx_ir as ir

from vqonnx.graph.facts import clip_bounds, int_attribute, reduced_axes
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import constant, nested_graphs
from vqonnx.transforms.patterns import Anything, Constant, Match, Number, either, find, op
from vqonnx.transforms.weights import float_constant

NEGLIGIBLE = 1e-10
"""Floor of the sum of squares that may be given up; of the length, its root."""

_X, _EPSILON, _SHAPE = Anything(), Constant(), Anything()

_SQUARES = either(op("Pow", _X, Number(2)), op("Mul", _X, _X))
_SUM_SQUARE = op("ReduceSumSquare", _X)
_SUM = op("ReduceSum", _SQUARES)
_ENERGY = either(_SUM, _SUM_SQUARE)
_CLIPPED_ENERGY = op("Clip", _ENERGY)
_ROOT = op("Sqrt", either(op("Add", _ENERGY, _EPSILON), op("Max", _ENERGY, _EPSILON), _CLIPPED_ENERGY))

_L2 = op("ReduceL2", _X)
_PLAIN_LENGTH = either(_L2, op("Sqrt", _ENERGY))
_CLIPPED_LENGTH = op("Clip", _PLAIN_LENGTH)
_FLOORED = either(op("Add", _PLAIN_LENGTH, _EPSILON), op("Max", _PLAIN_LENGTH, _EPSILON), _CLIPPED_LENGTH)
_LENGTH = either(_ROOT, _FLOORED, _PLAIN_LENGTH)
_EXPANDED = op("Expand", _LENGTH, _SHAPE)
_INVERSE = either(op("Reciprocal", _LENGTH), op("Div", Number(1), _LENGTH))

_FORMS = {"Div": op("Div", _X, either(_LENGTH, _EXPANDED)), "Mul": op("Mul", _X, _INVERSE)}


def fuse_l2_norms(model: ir.Model) -> int:
    """Turn each x / sqrt(sum(x^2)) along one axis into LpNormalization; return how many. Bodies are included.

    A floor under the length (1e-12 in torch's ``normalize`` and TensorFlow's ``l2_normalize``) is given up, where its
    square is below ``NEGLIGIBLE``: shorter vectors become unit vectors, and zero stays zero. Nothing is done where a
    value inside is read by another node.
    """
    names = NameAllocator.of(model)
    roots = [node for graph in nested_graphs(model.graph) for node in graph if node.op_type in _FORMS]
    return sum(_fuse(root, names) for root in reversed(roots))


def _fuse(root: ir.Node, names: NameAllocator) -> bool:
    found = find(_FORMS[root.op_type], root) if root.graph is not None else None
    if found is None or found[_X].shape is None or not _expands_to_x(found):
        return False
    axis = _axis(found)
    if axis is None or not _floor_is_negligible(found):
        return False
    found.replace("LpNormalization", [found.source(_X)], {"axis": axis, "p": 2}, names)
    return True


def _axis(found: Match) -> int | None:
    """The one axis along which the length is taken and which stays, with size 1; else None."""
    reduction = found.node(next(part for part in (_L2, _SUM, _SUM_SQUARE) if part in found))
    shape = found[_X].shape
    axes = reduced_axes(reduction, len(shape)) if shape is not None else None
    if axes is None or len(axes) != 1 or not int_attribute(reduction, "keepdims", 1):
        return None
    return axes[0]


def _floor_is_negligible(found: Match) -> bool:
    floor = _floor(found)
    return floor is not None and 0 <= floor <= NEGLIGIBLE


def _floor(found: Match) -> float | None:
    """What is added to, or kept under, the sum of squares; None if it is not known, or there is an upper bound too."""
    floor = 0.0
    if _EPSILON in found:
        epsilon = float_constant(found[_EPSILON])
        if epsilon is None or epsilon.size != 1:
            return None
        floor = float(epsilon.reshape(()))
    for part in (_CLIPPED_ENERGY, _CLIPPED_LENGTH):
        if part in found:
            bounds = clip_bounds(found.node(part))
            if bounds is None or bounds[1] != math.inf:
                return None
            floor = max(0.0, bounds[0])
    return floor if _ROOT in found else floor * floor


def _expands_to_x(found: Match) -> bool:
    """Whether an Expand, if there is one, gives x's own shape, and so nothing but what the division does anyway."""
    if _EXPANDED not in found:
        return True
    maker, x = found[_SHAPE].producer(), found[_X]
    if maker is not None and maker.op_type == "Shape" and not maker.domain and not maker.attributes:
        return maker.inputs[0] is x
    wanted = constant(found[_SHAPE])
    return wanted is not None and x.shape is not None and x.shape.is_static() and tuple(wanted) == x.shape.numpy()
