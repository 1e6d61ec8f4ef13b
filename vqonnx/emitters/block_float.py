"""Forms that leave a tensor float: its numbers are rounded to those of a format and go on in the tensor's own type.

A block format is one custom node, float16 and bfloat16 are a pair of Cast.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vqonnx.core.block_formats import BlockFloatFormat, BlockFormat
from vqonnx.core.custom_ops import DOMAIN, VERSION, attributes_of, block_op
from vqonnx.core.qtype import QType
from vqonnx.errors import UnsupportedModelError
from vqonnx.graph.edit import Attribute, add_initializer, insert_after_value, make_node, replace_uses
from vqonnx.graph.names import NameAllocator
from vqonnx.kernels.formats.blockfloat import round_to_block_float
from vqonnx.kernels.formats.floats import round_to_float
from vqonnx.kernels.formats.microscaling import round_to_microscaling

FloatArray = npt.NDArray[np.floating]

_TYPES = {ir.DataType.FLOAT, ir.DataType.FLOAT16}


class Nodes:
    """A chain of new nodes behind ``source``, in no graph yet.

    Args:
        graph: Where their constants go.
        names: Where their names come from; they start with the source's.
        source: A float32 or float16 value.
    """

    def __init__(self, graph: ir.Graph, names: NameAllocator, source: ir.Value) -> None:
        self.made: list[ir.Node] = []
        self.end = source
        self.dtype = source.dtype or ir.DataType.FLOAT
        self._graph, self._names, self._base = graph, names, source.name

    def append(
        self,
        op: str,
        constants: Sequence[ir.Value | None] = (),
        attributes: dict[str, Attribute] | None = None,
        dtype: ir.DataType | None = None,
    ) -> None:
        """Add a node that reads the end of the chain and some constants; a ``dtype`` is the chain's from there on."""
        name = f"{self._base}_{op.rpartition('::')[2]}"
        node = make_node(self._names, op, [self.end, *constants], attributes, name=name, outputs=[f"{name}_Output"])
        self.dtype = dtype or self.dtype
        node.outputs[0].dtype, node.outputs[0].shape = self.dtype, self.end.shape
        self.made.append(node)
        self.end = node.outputs[0]

    def cast(self, dtype: ir.DataType) -> None:
        """Add a Cast where the chain does not have the type."""
        if self.dtype != dtype:
            self.append("Cast", attributes={"to": int(dtype)}, dtype=dtype)

    def constant(self, array: npt.NDArray[np.generic], role: str) -> ir.Value:
        """Add an initializer."""
        return add_initializer(self._graph, self._names.unique(f"{self._base}_{role}"), array)


class Form(Protocol):
    """How a float tensor is rounded."""

    @property
    def least_opset(self) -> int:
        """The smallest version of the default domain that has the nodes."""

    def append_to(self, nodes: Nodes) -> None:
        """Add the nodes for a float32 tensor."""


@dataclass(frozen=True, slots=True)
class BlockForm:
    """Block floating point or microscaling, blocks along ``axis``."""

    fmt: BlockFormat
    axis: int

    @property
    def least_opset(self) -> int:
        """Any."""
        return 1

    def append_to(self, nodes: Nodes) -> None:
        """Add BFPQuantizeDequantize or MXQuantizeDequantize, with every attribute."""
        attributes: dict[str, Attribute] = {**attributes_of(self.fmt, self.axis)}
        nodes.append(f"{DOMAIN}::{block_op(self.fmt).name}", attributes=attributes)

    def rounded(self, values: FloatArray) -> FloatArray:
        """What the node makes of float32 numbers."""
        if isinstance(self.fmt, BlockFloatFormat):
            return round_to_block_float(values, self.fmt, self.axis)
        return round_to_microscaling(values, self.fmt, self.axis)


@dataclass(frozen=True, slots=True)
class CastForm:
    """float16 or bfloat16; numbers beyond the largest become infinite, or with ``saturate`` the largest."""

    qtype: QType
    saturate: bool = False

    @property
    def least_opset(self) -> int:
        """Since 13 Cast knows bfloat16."""
        return 13

    def append_to(self, nodes: Nodes) -> None:
        """Add Cast and Cast, and Clip before them to saturate."""
        if self.saturate:
            ends = [nodes.constant(np.array(float(end), np.float32), role) for end, role in self._ends()]
            nodes.append("Clip", ends)
        nodes.cast(ir.DataType[self.qtype.name.upper()])
        nodes.cast(ir.DataType.FLOAT)

    def _ends(self) -> tuple[tuple[int, str], tuple[int, str]]:
        return (self.qtype.qmin, "smallest"), (self.qtype.qmax, "largest")

    def rounded(self, values: FloatArray) -> FloatArray:
        """What the nodes make of float32 numbers: the nearest, halves to even."""
        return round_to_float(values, self.qtype, saturate=self.saturate)


def emit_rounded(
    model: ir.Model,
    names: NameAllocator,
    source: ir.Value,
    form: Form,
    *,
    uses: Sequence[tuple[ir.Node, int]] | None = None,
) -> ir.Value:
    """Let the readers of a float value read it rounded.

    Vitis AI's compiler reads formats off the nodes, so a constant gets one as well, and ONNX Runtime rounds it once,
    when a session is made.

    Args:
        model: Changed in place.
        names: Knows all names of the model.
        source: A float32 or float16 value of any of its graphs; float16 is widened for the rounding.
        form: To what.
        uses: The inputs that are to read the rounded value, as nodes and places; every reader if None.

    Returns:
        The rounded value. The old one stays, perhaps without readers.

    Raises:
        UnsupportedModelError: The value is of another type, or the model's opset lacks the nodes.
    """
    _require(model, source, form)
    chain = Nodes(model.graph, names, source)
    own = chain.dtype
    chain.cast(ir.DataType.FLOAT)
    form.append_to(chain)
    chain.cast(own)
    insert_after_value(source, chain.made)
    for domain in {node.domain for node in chain.made} - {""}:
        model.graph.opset_imports.setdefault(domain, VERSION)
    if uses is None:
        replace_uses(source, chain.end, names, keep=chain.made)
    for node, place in uses or ():
        node.replace_input_with(place, chain.end)
    return chain.end


def _require(model: ir.Model, source: ir.Value, form: Form) -> None:
    if source.dtype not in _TYPES:
        raise UnsupportedModelError(
            f"value {source.name!r} is of type {source.dtype}; only float32 and float16 are rounded"
        )
    opset = model.graph.opset_imports.get("", 0)
    if opset < form.least_opset:
        raise UnsupportedModelError(
            f"rounding value {source.name!r} takes opset {form.least_opset}, and the model has {opset}; raise it first"
        )
