"""Softmax as AMD's NPU (DPU) computes it: in bfloat16, written out in ONNX's operators on float32."""

import math
from collections.abc import Mapping, Sequence

import ml_dtypes
import numpy as np
import onnx_ir as ir

from vqonnx.graph.edit import Attribute, add_initializer, make_node, replace_node
from vqonnx.graph.facts import int_attribute
from vqonnx.graph.names import NameAllocator
from vqonnx.kernels.dpu import EXP_COEFFICIENTS


def replace_softmax(node: ir.Node, names: NameAllocator) -> bool:
    """Write out ``node``, a Softmax of opset 13 or later, as ``kernels.dpu.softmax`` with ``reciprocal=False``.

    That is: no largest element is subtracted, so that inputs beyond 88 overflow as they do on the device; every
    result is rounded to bfloat16 by two Casts. The device's reciprocal looks at bits, which no operator of ONNX does;
    the division here is at most a few steps of bfloat16 away from it. False, and nothing is done, for other types than
    float32.
    """
    x = node.inputs[0]
    if x is None or x.dtype != ir.DataType.FLOAT:
        return False
    write = _Writer(node, names)
    powers = _exp(write, write.rounded(x))
    axis = write.constant(np.array([int_attribute(node, "axis", -1)], np.int64))
    total = write.rounded(write.node("ReduceSum", [powers, axis], {"keepdims": 1}))
    write.rounded(write.node("Div", [powers, total]))
    replace_node(node, write.nodes, names)
    return True


def _exp(write: "_Writer", x: ir.Value) -> ir.Value:
    """2^n times a polynomial of r = x - n ln 2, where n = floor(x / ln 2)."""
    n = write.node("Floor", [write.rounded(write.node("Mul", [x, write.number(1 / math.log(2))]))])
    whole = write.rounded(write.node("Mul", [n, write.number(math.log(2))]))
    r = write.rounded(write.node("Sub", [x, whole]))
    first, *others = EXP_COEFFICIENTS
    polynomial = write.number(first)
    for coefficient in others:
        product = write.node("Mul", [polynomial, r])
        polynomial = write.rounded(write.node("Add", [product, write.number(coefficient)]))
    return write.rounded(write.node("Mul", [polynomial, write.node("Pow", [write.number(2), n])]))


class _Writer:
    """Collects the nodes that take the place of one, and adds the constants that they read."""

    def __init__(self, node: ir.Node, names: NameAllocator) -> None:
        if not isinstance(node.graph, ir.Graph):  # pragma: no cover - passes walk graphs
            raise TypeError(f"node {node.name!r} is in no graph")
        self.nodes: list[ir.Node] = []
        self._base, self._graph, self._names = node.name or node.op_type, node.graph, names

    def node(self, op: str, inputs: Sequence[ir.Value], attributes: Mapping[str, Attribute] | None = None) -> ir.Value:
        made = make_node(self._names, op, inputs, attributes, name=f"{self._base}_{op.lower()}")
        made.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        self.nodes.append(made)
        return made.outputs[0]

    def rounded(self, value: ir.Value) -> ir.Value:
        """``value`` rounded to bfloat16, in float32."""
        half = self.node("Cast", [value], {"to": ir.DataType.BFLOAT16})
        half.type = ir.TensorType(ir.DataType.BFLOAT16)
        return self.node("Cast", [half], {"to": ir.DataType.FLOAT})

    def number(self, number: float) -> ir.Value:
        """A scalar, rounded to bfloat16."""
        return self.constant(np.array(number, ml_dtypes.bfloat16).astype(np.float32))

    def constant(self, array: np.ndarray) -> ir.Value:
        return add_initializer(self._graph, self._names.unique(f"{self._base}_constant"), array)
