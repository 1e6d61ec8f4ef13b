"""The integer codes of planned tensors in a graph of integer operators, and how they come about."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from vqonnx.core.plan import Plan, Role
from vqonnx.core.solution import Solutions
from vqonnx.emitters.affine_nodes import AffineNodes
from vqonnx.graph.edit import insert_after_value
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import values_by_name

Triple = tuple[ir.Value, ir.Value, ir.Value]


class Codes:
    """Codes by key: of constants, of what integer operators compute, and of float values, quantized once each."""

    def __init__(self, model: ir.Model, plan: Plan, solutions: Solutions, names: NameAllocator) -> None:
        self.affine = AffineNodes(model, plan, solutions, names)
        self.solutions = solutions
        self._tensors = plan.tensors
        self._floats: Mapping[str, ir.Value] = values_by_name(model)
        self._sources: dict[str, ir.Value] = {}
        self._codes: dict[str, ir.Value] = {}

    def __getitem__(self, key: str) -> ir.Value:
        """The codes of a planned tensor; made now where nothing computes them."""
        if key not in self._codes:
            self._codes[key] = self._made(key)
        return self._codes[key]

    def __setitem__(self, key: str, codes: ir.Value) -> None:
        """These are the codes from now on: an integer operator computes them."""
        self._codes[key] = codes

    def take_from(self, key: str, source: ir.Value) -> None:
        """A float value that an integer operator computes is what the codes are to be made of."""
        self._sources[key] = source

    def triple(self, key: str) -> Triple:
        """Codes, scale and zero point, as most integer operators read them."""
        return self[key], *self.params(key)

    def params(self, key: str) -> tuple[ir.Value, ir.Value]:
        """Scale and zero point; integer operators take float32 scales, in float16 models too."""
        return self.affine.scale(key, np.float32), self.affine.zero_point(key)

    def in_terms_of(self, codes: ir.Value, source: str, wanted: str) -> ir.Value:
        """Codes with the scale and zero point of ``source``, in those of ``wanted``."""
        return codes if self._alike(source, wanted) else self._requantized(codes, source, wanted)

    def dequantized(self, key: str, like: ir.Value) -> ir.Value:
        """The float numbers, with the type and shape of ``like``."""
        node = self.affine.dequantize(key, self[key], like)
        insert_after_value(self[key], node)
        return node.outputs[0]

    def _made(self, key: str) -> ir.Value:
        tensor = self._tensors[key]
        if tensor.role is not Role.ACTIVATION:
            return self.affine.codes(key)
        if tensor.converted_from is not None:
            return self._requantized(self[tensor.converted_from], tensor.converted_from, key)
        source = self._sources.get(key, self._floats[tensor.tensor])
        node = self.affine.quantize(key, source)
        insert_after_value(source, node)
        return node.outputs[0]

    def _requantized(self, codes: ir.Value, source: str, wanted: str) -> ir.Value:
        dequantizer = self.affine.dequantize(source, codes, self._floats[self._tensors[source].tensor])
        quantizer = self.affine.quantize(wanted, dequantizer.outputs[0])
        insert_after_value(codes, [dequantizer, quantizer])
        return quantizer.outputs[0]

    def _alike(self, one: str, other: str) -> bool:
        a, b = self.solutions.params(one), self.solutions.params(other)
        same_type = a.zero_point.dtype == b.zero_point.dtype
        return same_type and bool(a.zero_point == b.zero_point) and bool(a.scale == b.scale)
