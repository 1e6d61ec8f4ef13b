"""Planned tensors of types without scales: 16-bit floats and block formats."""

import onnx_ir as ir

from vqonnx.core.block_formats import BLOCK_FORMATS, BlockFormat
from vqonnx.core.granularity import PerBlock
from vqonnx.core.qtype import FLOAT32
from vqonnx.core.spec import QuantSpec
from vqonnx.emitters.block_float import BlockForm, CastForm
from vqonnx.graph.edit import make_node
from vqonnx.graph.names import NameAllocator


def form_without_scale(spec: QuantSpec, *, saturate: bool = False) -> BlockForm | CastForm | None:
    """How a float tensor is rounded to the spec's type; None where the type has scales.

    Args:
        spec: The spec.
        saturate: Whether 16-bit floats take what is beyond them as their largest number.
    """
    fmt = BLOCK_FORMATS.get(spec.qtype.name)
    if fmt is not None:
        return block_form(spec, fmt)
    return None if spec.has_scale or spec.qtype == FLOAT32 else CastForm(spec.qtype, saturate)


def block_form(spec: QuantSpec, fmt: BlockFormat) -> BlockForm:
    """A block format along the axis of the spec's blocks; a scalar is a block by itself."""
    axis = spec.granularity.axis if isinstance(spec.granularity, PerBlock) else 0
    return BlockForm(fmt, axis)


def widened(names: NameAllocator, codes: ir.Value, like: ir.Value) -> ir.Node:
    """A Cast of a 16-bit float constant to the type of ``like``."""
    dtype = like.dtype or ir.DataType.FLOAT
    name = f"{codes.name}_Cast"
    node = make_node(names, "Cast", [codes], {"to": int(dtype)}, name=name, outputs=[f"{name}_Output"])
    node.outputs[0].dtype, node.outputs[0].shape = dtype, codes.shape
    return node
