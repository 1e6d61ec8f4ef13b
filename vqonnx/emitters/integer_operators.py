"""Which integer operator computes what a float one does, and from which inputs: one function an operator.

Signatures: ONNX QLinearConv-10 and QLinearMatMul-21; the others in ONNX Runtime's ContribOperators.md, com.microsoft.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from vqonnx.core.plan import NodePlan
from vqonnx.core.target import Kernel
from vqonnx.emitters.codes import Codes, Triple
from vqonnx.errors import OptionError
from vqonnx.graph.facts import ONE_AXIS, operator_key, opset_of, pad_fill
from vqonnx.kernels.affine import quantize

_CONTRIB = "com.microsoft::"
_EMBEDDED = range(2, 7)
"""Inputs of EmbedLayerNormalization: tables of words, positions and segments, gamma, beta."""


@dataclass(frozen=True, slots=True)
class Operator:
    """A node to be made.

    Attributes:
        op: ``op_type`` or ``domain::op_type``.
        inputs: Its inputs; None where an optional one is left out.
        attributes: Its attributes.
        gives_float: Whether its result is float32 instead of codes.
        outputs: Outputs that it has at least, whether or not the float node has them.
    """

    op: str
    inputs: tuple[ir.Value | None, ...]
    attributes: Mapping[str, ir.Attr | int | float]
    gives_float: bool = False
    outputs: int = 1


@dataclass(frozen=True, slots=True)
class Operands:
    """What a planned float node reads and writes.

    Attributes:
        node: The float node.
        keys: The quantized form of each input; None where it stays as it is.
        result: The quantized form of its result, behind a clip if one follows; None for a float result.
        bias: What the Add behind a MatMul adds, float32.
        codes: The codes of all forms.
    """

    node: ir.Node
    keys: tuple[str | None, ...]
    result: str | None
    bias: ir.Value | None
    codes: Codes

    def triple(self, index: int) -> Triple:
        """Codes, scale and zero point of an input."""
        key = self.keys[index]
        assert key is not None, f"{self.node.name}: input {index} is planned to stay float"
        return self.codes.triple(key)

    def code(self, index: int) -> ir.Value | None:
        """The codes alone; None where there is no such input."""
        key = self.keys[index] if index < len(self.keys) else None
        return None if key is None else self.codes[key]

    def plain(self, start: int, stop: int | None = None) -> tuple[ir.Value | None, ...]:
        """Inputs from ``start`` on as they are."""
        return tuple(self.node.inputs[start:stop])

    def result_params(self) -> tuple[ir.Value, ir.Value]:
        """Scale and zero point of the result."""
        assert self.result is not None, f"{self.node.name}: its result is planned to stay float"
        return self.codes.params(self.result)

    def attributes(self, *without: str) -> dict[str, ir.Attr]:
        """The float node's attributes."""
        return {name: value for name, value in self.node.attributes.items() if name not in without}


Rule = Callable[[Operands], Operator]


def integer_operator(plan: NodePlan, operands: Operands) -> Operator:
    """The integer operator for a planned node.

    Raises:
        OptionError: None is known; the target lists what this form cannot write.
    """
    key = operator_key(operands.node)
    rule = RULES.get(key, _same if plan.kernel is Kernel.MOVES else None)
    if rule is None:
        raise OptionError(
            f"{key} {plan.node!r} has no operator in QOperator form, though the target lists it. Take it from the "
            "target's other_ops, or write the QDQ form (QuantFormat.QDQ).",
            option="quant_format",
        )
    return rule(operands)


def _conv(x: Operands) -> Operator:
    inputs = (*x.triple(0), *x.triple(1), *x.result_params(), x.code(2))
    return Operator("QLinearConv", inputs, x.attributes())


def _gemm(x: Operands) -> Operator:
    """Its output is float where its scale is left out."""
    result = () if x.result is None else x.result_params()
    inputs = (*x.triple(0), *x.triple(1), x.code(2), *result)
    return Operator(f"{_CONTRIB}QGemm", inputs, x.attributes("beta"), gives_float=not result)


def _matmul(x: Operands) -> Operator:
    """QLinearMatMul has no bias and no float output, MatMulIntegerToFloat has both."""
    if x.result is not None and x.bias is None:
        return Operator("QLinearMatMul", (*x.triple(0), *x.triple(1), *x.result_params()), {})
    (a, a_scale, a_zero), (b, b_scale, b_zero) = x.triple(0), x.triple(1)
    inputs = (a, b, a_scale, b_scale, a_zero, b_zero, x.bias)
    return Operator(f"{_CONTRIB}MatMulIntegerToFloat", inputs, {}, gives_float=True)


def _attention(x: Operands) -> Operator:
    (a, a_scale, a_zero), (b, b_scale, b_zero) = x.triple(0), x.triple(1)
    bias, mask, past = (*x.plain(2), None, None, None)[:3]
    if bias is None:
        width = x.codes.solutions.constants[x.keys[1] or ""].codes.shape[1]
        bias = x.codes.affine.add(f"{x.node.name}_bias", np.zeros(width, np.float32))
    inputs = (a, b, bias, a_scale, b_scale, mask, a_zero, b_zero, past)
    attributes = x.attributes("past_present_share_buffer", "rotary_embedding_dim")
    return Operator(f"{_CONTRIB}QAttention", inputs, attributes, gives_float=True)


def _embed_layer_norm(x: Operands) -> Operator:
    """Tables, gamma and beta; all scales behind the mask, then all zero points."""
    triples = [x.triple(index) if x.keys[index] is not None else (None, None, None) for index in _EMBEDDED]
    codes, scales, zeros = zip(*triples, strict=True)
    mask = (*x.plain(7, 8), None)[0]
    inputs = (*x.plain(0, 2), *codes, mask, *scales, *zeros)
    attributes = x.attributes("mask_index_type")
    return Operator(f"{_CONTRIB}QEmbedLayerNormalization", inputs, attributes, gives_float=True, outputs=2)


def _elementwise(op: str, x: Operands) -> Operator:
    """Triples of all inputs, then scale and zero point of the result."""
    triples = [value for index in range(len(x.keys)) for value in x.triple(index)]
    return Operator(f"{_CONTRIB}{op}", (*triples, *x.result_params()), x.attributes("dilations"))


def _concat(x: Operands) -> Operator:
    triples = [value for index in range(len(x.keys)) for value in x.triple(index)]
    return Operator(f"{_CONTRIB}QLinearConcat", (*x.result_params(), *triples), x.attributes())


def _softmax(x: Operands) -> Operator:
    inputs = (*x.triple(0), *x.result_params())
    version = opset_of(x.node) or ONE_AXIS
    default = -1 if version >= ONE_AXIS else 1
    return Operator(f"{_CONTRIB}QLinearSoftmax", inputs, {"axis": default, **x.attributes(), "opset": version})


def _where(x: Operands) -> Operator:
    inputs = (*x.plain(0, 1), *x.triple(1), *x.triple(2), *x.result_params())
    return Operator(f"{_CONTRIB}QLinearWhere", inputs, {})


def _same(x: Operands) -> Operator:
    """The operator itself, on codes: it moves or compares them."""
    return Operator(operator_key(x.node), (x.code(0), *x.plain(1)), x.attributes())


def _pad(x: Operands) -> Operator:
    pads, _, axes = (*x.plain(1), None, None)[:3]
    return Operator("Pad", (x.code(0), pads, _fill(x), axes), x.attributes())


def _fill(x: Operands) -> ir.Value | None:
    """The code that a Pad fills with: made at run time, or of its constant, in the params of the result."""
    made, number = x.code(2), pad_fill(x.node)
    if made is not None or x.node.attributes.get_string("mode", "constant") != "constant":
        return made
    if not number:
        return x.result_params()[1]
    params = x.codes.solutions.params(x.result or "")
    return x.codes.affine.add(f"{x.node.name}_fill", quantize(np.asarray(number, np.float32), params))


RULES: Mapping[str, Rule] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    f"{_CONTRIB}Attention": _attention,
    f"{_CONTRIB}EmbedLayerNormalization": _embed_layer_norm,
    "Concat": _concat,
    "Softmax": _softmax,
    "Where": _where,
    "Pad": _pad,
    "ArgMax": _same,
    **{
        op_type: partial(_elementwise, f"QLinear{op_type}")
        for op_type in ("Add", "Mul", "Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool")
    },
}
"""By ``op_type`` or ``domain::op_type``; movers of data that are not named are written as they are."""
