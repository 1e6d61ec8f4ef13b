"""Normalization to zero mean and unit variance, written out: what LayerNorm and InstanceNorm have in common."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from vqonnx.graph.facts import int_attribute, reduced_axes
from vqonnx.transforms.patterns import Anything, Constant, Match, Number, Pattern, either, find, op
from vqonnx.transforms.weights import F64, float_constant

_X, _EPSILON, _SCALE, _SHIFT = Anything(), Constant(), Constant(), Constant()

_MEAN = op("ReduceMean", _X)
_DEVIATION = op("Sub", _X, _MEAN)
_SQUARES = either(op("Pow", _DEVIATION, Number(2)), op("Mul", _DEVIATION, _DEVIATION))
_VARIANCE = op("ReduceMean", _SQUARES)
_KEPT_VARIANCE = op("Reshape", _VARIANCE)
"""What torch's exporter makes of ``x.var(keepdim=True)``: a mean without the axis, and the axis put back."""
_ABOVE_ZERO = op("Add", either(_VARIANCE, _KEPT_VARIANCE), _EPSILON)
_SPREAD = op("Sqrt", _ABOVE_ZERO)
_INVERSE = either(
    op("Reciprocal", _SPREAD),
    op("Div", Number(1), _SPREAD),
    op("Pow", _ABOVE_ZERO, Number(-0.5)),
)
_PLAIN = either(op("Div", _DEVIATION, _SPREAD), op("Mul", _DEVIATION, _INVERSE))
_SCALED = op("Mul", _PLAIN, _SCALE)
_FACTOR = op("Mul", _INVERSE, _SCALE)

_FORMS: Mapping[str, tuple[Pattern, ...]] = {
    "Add": (
        op("Add", _SCALED, _SHIFT),
        op("Add", _PLAIN, _SHIFT),
        # TensorFlow's batch_normalization: x * factor + (shift - mean * factor).
        op("Add", op("Mul", _X, _FACTOR), op("Sub", _SHIFT, op("Mul", _MEAN, _FACTOR))),
        op("Add", op("Mul", _X, _INVERSE), op("Sub", _SHIFT, op("Mul", _MEAN, _INVERSE))),
    ),
    "Sub": (
        op("Sub", op("Mul", _X, _FACTOR), op("Mul", _MEAN, _FACTOR)),
        op("Sub", op("Mul", _X, _INVERSE), op("Mul", _MEAN, _INVERSE)),
    ),
    "Mul": (_SCALED, _PLAIN),
    "Div": (_PLAIN,),
}
"""By operator of the last node, the longest first."""

_TYPES = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
"""What the fused operators compute in float32 at least; double would lose digits."""


@dataclass(frozen=True, slots=True, eq=False)
class WrittenNormalization:
    """scale * (x - mean) / sqrt(variance + epsilon) + shift, with mean and variance over ``axes``.

    Attributes:
        match: The nodes.
        x: What is normalized, in the type of the result where it is there in it.
        shape: Its shape; the rank is known.
        axes: In order, each >= 0.
        epsilon: Added to the variance, the mean of the squares.
        scale: The constant factor, of a shape that broadcasts to x; None for 1.
        shift: The constant added last, likewise; None for 0.
    """

    match: Match
    x: ir.Value
    shape: ir.Shape
    axes: tuple[int, ...]
    epsilon: float
    scale: F64 | None
    shift: F64 | None


def written_normalization(root: ir.Node) -> WrittenNormalization | None:
    """The normalization whose last node is ``root``; None if there is none, or its axes or rank are not known."""
    found = next((match for form in _FORMS.get(root.op_type, ()) if (match := find(form, root))), None)
    if found is None:
        return None
    x, epsilon = found.source(_X), float_constant(found[_EPSILON])
    if x.shape is None or x.dtype not in _TYPES or root.outputs[0].dtype not in _TYPES:
        return None
    axes = reduced_axes(found.node(_MEAN), len(x.shape))
    if not axes or epsilon is None or epsilon.size != 1 or not _means_agree(found, x.shape, axes):
        return None
    scale, shift = (float_constant(found[part]) if part in found else None for part in (_SCALE, _SHIFT))
    return WrittenNormalization(found, x, x.shape, axes, float(epsilon.reshape(())), scale, shift)


def _means_agree(found: Match, shape: ir.Shape, axes: tuple[int, ...]) -> bool:
    """Whether all means are over ``axes`` and leave axes of size 1 in their place."""
    means = [node for node in found.nodes if node.op_type == "ReduceMean"]
    if any(reduced_axes(mean, len(shape)) != axes for mean in means):
        return False
    variance = found.node(_VARIANCE)
    kept = all(int_attribute(mean, "keepdims", 1) for mean in means if mean is not variance)
    return kept and (bool(int_attribute(variance, "keepdims", 1)) or _is_put_back(found, shape, axes))


def _is_put_back(found: Match, shape: ir.Shape, axes: tuple[int, ...]) -> bool:
    reshaped = found[_KEPT_VARIANCE].shape if _KEPT_VARIANCE in found else None
    wanted = [1 if axis in axes else size for axis, size in enumerate(shape)]
    known = all(isinstance(size, int) or size.value for size in wanted)
    return reshaped is not None and known and list(reshaped) == wanted


ROOTS: frozenset[str] = frozenset(_FORMS)
"""Operators that may be the last of a normalization."""
