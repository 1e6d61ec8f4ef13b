"""FixNeuron: one node a tensor in the place of QuantizeLinear and DequantizeLinear, for AMD's Vitis AI compiler.

It takes signed codes with zero point 0, one scale a tensor, a power of two. Constants stay float behind theirs, as
numbers that the codes stand for, and an activation has one where a pair would be: so both forms compute the same bits,
but for NaN, which a FixNeuron passes on.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vqonnx.core.custom_ops import FIX_NEURON
from vqonnx.core.params import QuantParams
from vqonnx.core.qtype import Kind
from vqonnx.emitters.affine_nodes import AffineNodes
from vqonnx.emitters.block_float import Nodes
from vqonnx.errors import OptionError
from vqonnx.graph.edit import Attribute
from vqonnx.kernels.scale_grid import position_of

_BITS = 8
"""Of the zero point's type."""


@dataclass(frozen=True, slots=True)
class FixNeuronForm:
    """Codes of ``bits`` bits at one position.

    Attributes:
        bits: Of the codes, with the sign.
        position: -log2 of the scale.
        scale: The scale, float32 [].
        zero_point: 0, int8 [], however many bits the codes have.
    """

    bits: int
    position: int
    scale: ir.Value
    zero_point: ir.Value

    @property
    def least_opset(self) -> int:
        """Any."""
        return 1

    def append_to(self, nodes: Nodes) -> None:
        """Add a FixNeuron. Its attributes are texts, in this order, by which some tools read them."""
        attributes: dict[str, Attribute] = {"bit_width": str(self.bits), "pos": str(self.position)}
        nodes.append(f"{FIX_NEURON.domain}::{FIX_NEURON.name}", [self.scale, self.zero_point], attributes)


def fix_neuron_form(affine: AffineNodes, key: str, params: QuantParams) -> FixNeuronForm:
    """How a planned tensor is rounded.

    Raises:
        OptionError: Its codes are not signed integers, or its scale is not a power of two and one for all.
    """
    qtype, shape = params.spec.qtype, params.scale.shape
    one = shape == () and np.frexp(params.scale)[0] == 0.5 and not params.zero_point.any()
    if qtype.kind is not Kind.INTEGER or not qtype.signed or not one:
        raise OptionError(
            f"quant_format: FixNeuron takes signed codes with zero point 0 and one scale, a power of two. {key!r} is "
            f"{qtype.name} with zero point {params.zero_point} and scale {params.scale}. Let the quantizer class give "
            "others, or write the QDQ form (QuantFormat.QDQ).",
            option="quant_format",
        )
    return FixNeuronForm(
        bits=qtype.bits,
        position=int(position_of(params.scale)),
        scale=affine.scale(key, np.float32),
        zero_point=affine.zero_point(key) if qtype.bits == _BITS else affine.add(f"{key}_zero", np.zeros((), np.int8)),
    )
