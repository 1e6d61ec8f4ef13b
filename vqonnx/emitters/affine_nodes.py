"""QuantizeLinear and DequantizeLinear nodes, and the scales and zero points that all forms read."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vqonnx.core.custom_ops import DEQUANTIZE, DOMAIN, QUANTIZE, VERSION
from vqonnx.core.granularity import PerAxis, PerBlock
from vqonnx.core.params import QuantParams
from vqonnx.core.plan import Plan, Role
from vqonnx.core.qtype import Kind
from vqonnx.core.solution import Solutions
from vqonnx.graph.edit import Attribute, add_initializer, make_node
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.proto import in_typed_fields

_CONTRIB = "com.microsoft"


class AffineNodes:
    """Makes the nodes of one model, in no graph yet; each scale and zero point becomes one initializer."""

    def __init__(self, model: ir.Model, plan: Plan, solutions: Solutions, names: NameAllocator) -> None:
        self._graph = model.graph
        self._domain = _CONTRIB if plan.contrib else ""
        self._plan = plan
        self._solutions = solutions
        self._names = names
        self._made: dict[tuple[str, str], ir.Value] = {}

    def quantize(self, key: str, source: ir.Value, number: int = 0) -> ir.Node:
        """QuantizeLinear of a float value, with a scale of its type; a ``number`` above 0 ends the names."""
        dtype = np.float16 if source.dtype == ir.DataType.FLOAT16 else np.float32
        zero_point = self.zero_point(key)  # made first: some programs take initializers by their position
        node = self._node("QuantizeLinear", key, [source, self.scale(key, dtype), zero_point], number)
        node.outputs[0].type, node.outputs[0].shape = zero_point.type, source.shape
        return node

    def dequantize(self, key: str, codes: ir.Value, like: ir.Value, number: int = 0) -> ir.Node:
        """DequantizeLinear of codes; its output has the type of ``like``."""
        node = self._node("DequantizeLinear", key, [codes, self.scale(key), self.zero_point(key)], number)
        node.outputs[0].type, node.outputs[0].shape = like.type, codes.shape
        return node

    def scale(self, key: str, dtype: npt.DTypeLike | None = None) -> ir.Value:
        """The scale of a planned tensor; in its own type where none is named."""
        scale = self._solutions.params(key).scale
        wanted = scale.dtype if dtype is None else np.dtype(dtype)
        return self._param("scale", wanted.name, key, scale.astype(wanted, copy=False))

    def zero_point(self, key: str) -> ir.Value:
        """The zero point of a planned tensor."""
        return self._param("zero_point", "", key, self._solutions.params(key).zero_point)

    def codes(self, key: str) -> ir.Value:
        """The codes of a planned constant."""
        return self._constant((key, "quantized"), f"{key}_quantized", self._solutions.constants[key].codes)

    def add(self, name: str, array: npt.ArrayLike) -> ir.Value:
        """An initializer; its name gets a number where it is taken."""
        return add_initializer(self._graph, self._names.unique(name), np.asarray(array))

    def _param(self, part: str, kind: str, key: str, array: npt.NDArray[np.generic]) -> ir.Value:
        """A scale or zero point, which is that of the whole group where the group has one."""
        key = self._sharer(key)
        tensor = self._plan.tensors.get(key)
        converted = tensor is not None and tensor.converted_from is not None
        name = f"{tensor.tensor}_{part}_convert" if tensor is not None and converted else f"{key}_{part}"
        if not self._plan.peer_layout:
            return self._constant((key, part + kind), name, array)
        is_bias = tensor is not None and tensor.role is Role.BIAS
        if is_bias and part == "scale":
            array = np.atleast_1d(array)  # of one element it is no axis
        value = self._constant((key, part + kind), name, array)
        if not (is_bias and array.ndim):
            value.const_value = in_typed_fields(array, value.name or name)
        return value

    def _sharer(self, key: str) -> str:
        """The activation whose numbers a data mover's output has too, or the tensor itself."""
        tensor = self._plan.tensors.get(key)
        leader = None if tensor is None else self._plan.tensors.get(tensor.group)
        if leader is None or leader.role is not Role.ACTIVATION or key not in self._solutions.activations:
            return key
        ours, theirs = self._solutions.params(key), self._solutions.params(leader.key)
        same = np.array_equal(ours.scale, theirs.scale) and np.array_equal(ours.zero_point, theirs.zero_point)
        types = (ours.scale.dtype, ours.zero_point.dtype) == (theirs.scale.dtype, theirs.zero_point.dtype)
        return leader.key if same and types else key

    def _constant(self, place: tuple[str, str], name: str, array: npt.NDArray[np.generic]) -> ir.Value:
        if place not in self._made:
            self._made[place] = self.add(name, array)
        return self._made[place]

    def _node(self, op_type: str, key: str, inputs: Sequence[ir.Value], number: int) -> ir.Node:
        name, attributes = f"{key}_{op_type}", _attributes(self._solutions.params(key))
        domain, version, op = self._domain, 1, op_type
        if self._is_custom(key):
            found = QUANTIZE if op_type == "QuantizeLinear" else DEQUANTIZE
            domain, version, op = DOMAIN, VERSION, found.name
            attributes = {**found.defaults, **attributes}
        self._graph.opset_imports.setdefault(domain, version)
        end = f"_{number}" if number else ""
        outputs = [f"{name}_Output{end}"]
        return make_node(self._names, f"{domain}::{op}", inputs, attributes, name=f"{name}{end}", outputs=outputs)

    def _is_custom(self, key: str) -> bool:
        """Whether Vitis AI's operators are written: for integers where they are asked for, and for 32 bits always.

        ONNX's DequantizeLinear takes int32 as well, but ONNX Runtime fuses a product with such weights to an integer
        operator that does not take them. Its other types they have in their documents, not in ``ops``.
        """
        tensor = self._plan.tensors.get(key)
        if tensor is None or tensor.spec.qtype.kind is not Kind.INTEGER or tensor.spec.qtype.bits < 8:
            return False
        if tensor.role is Role.BIAS:
            return self._plan.custom_ops and tensor.own_scale
        return self._plan.custom_ops or tensor.spec.qtype.bits == 32


def _attributes(params: QuantParams) -> dict[str, Attribute]:
    granularity = params.spec.granularity
    if isinstance(granularity, PerBlock):
        return {"axis": granularity.axis, "block_size": granularity.size}
    return {"axis": granularity.axis} if isinstance(granularity, PerAxis) and params.scale.ndim else {}
