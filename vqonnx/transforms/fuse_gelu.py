"""Gelu written out, as one node."""

import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from vqonnx.graph.edit import Attribute
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import nested_graphs
from vqonnx.transforms.patterns import Anything, Number, Pattern, either, find, op

GELU_OPSET = 20
"""The opset that brought the operator."""

_CUBIC = 0.044715

_X = Anything()


def _half(a: Pattern) -> Pattern:
    return either(op("Mul", a, Number(0.5)), op("Div", a, Number(2)))


def _times_half_x(a: Pattern) -> Pattern:
    """0.5 * x * a, in any order."""
    return either(op("Mul", _half(_X), a), _half(op("Mul", _X, a)), op("Mul", _X, _half(a)))


_X_BY_ROOT_2 = either(op("Div", _X, Number(math.sqrt(2))), op("Mul", _X, Number(math.sqrt(0.5))))
_BY_ERF = _times_half_x(op("Add", op("Erf", _X_BY_ROOT_2), Number(1)))
"""0.5 x (1 + erf(x / sqrt 2)): torch, HuggingFace, TensorFlow."""

_X2 = either(op("Mul", _X, _X), op("Pow", _X, Number(2)))
_X3 = either(op("Pow", _X, Number(3)), op("Mul", _X, _X2))
_CX = op("Mul", _X, Number(_CUBIC))
_CX2 = either(op("Mul", _X2, Number(_CUBIC)), op("Mul", _CX, _X))
_CX3 = either(op("Mul", _X3, Number(_CUBIC)), op("Mul", _CX2, _X))
_ROOT = Number(math.sqrt(2 / math.pi))
_ONE_MORE = op("Add", _CX2, Number(1))
_ANGLE = either(
    op("Mul", op("Add", _X, _CX3), _ROOT),
    op("Mul", op("Mul", _X, _ROOT), _ONE_MORE),
    op("Mul", op("Mul", _X, _ONE_MORE), _ROOT),
)
_BY_TANH = _times_half_x(op("Add", op("Tanh", _ANGLE), Number(1)))
"""0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))): Hendrycks and Gimpel 2016, arXiv:1606.08415."""


_ONNX: tuple[tuple[Pattern, str, Mapping[str, Attribute]], ...] = (
    (_BY_ERF, "Gelu", {"approximate": "none"}),
    (_BY_TANH, "Gelu", {"approximate": "tanh"}),
)
_CONTRIB: tuple[tuple[Pattern, str, Mapping[str, Attribute]], ...] = (
    (_BY_ERF, "com.microsoft::Gelu", {}),
    (_BY_TANH, "com.microsoft::FastGelu", {}),
)


def fuse_gelus(model: ir.Model, *, contrib: bool = False) -> int:
    """Turn each Gelu that is written out, by erf or by tanh, into the operator of that name; return how many.

    Bodies are included. Constants may stand on either side and be off by one part in ten thousand. Nothing is done
    where a value inside is read by another node, nor below opset 20, unless ONNX Runtime's own operators do there
    (``contrib``).
    """
    has_operator = model.opset_imports.get("", 0) >= GELU_OPSET
    if not (has_operator or contrib):
        return 0
    forms = _ONNX if has_operator else _CONTRIB
    names = NameAllocator.of(model)
    roots = [node for graph in nested_graphs(model.graph) for node in graph if node.op_type in ("Mul", "Div")]
    fused = sum(_fuse(root, forms, names) for root in reversed(roots))
    if fused and not has_operator:
        model.opset_imports.setdefault("com.microsoft", 1)
    return fused


def _fuse(root: ir.Node, forms: Sequence[tuple[Pattern, str, Mapping[str, Attribute]]], names: NameAllocator) -> bool:
    if root.graph is None:  # it went with a node behind it
        return False
    for pattern, op_type, attributes in forms:
        found = find(pattern, root)
        if found is not None:
            found.replace(op_type, [found.source(_X)], attributes, names)
            return True
    return False
