"""A weight behind a DequantizeLinear in front of a MatMul or Gemm: standard ONNX, which ONNX Runtime fuses.

The pair becomes MatMulNBits when a session is opened (accuracy level 4, unless the session says otherwise), if

* the weight lies as [K, N]: neither transposed nor behind a Transpose;
* codes and scales are read by this one DequantizeLinear: of two over the same initializers, 1.31 fuses none;
* both are in the graph of the product: captured by a body, they make 1.24 and 1.31 refuse the model;
* no Add of a computed matrix follows a MatMul of two axes: the two become a Gemm first, which is not fused then.

So each product gets initializers of its own, which share their data where the model is saved with external data.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from vqonnx.core.blocks import KMajorBlocks, QuantizedBlocks, block_count
from vqonnx.emitters.weights.matmul_nbits import UnreadableWeightError
from vqonnx.emitters.weights.products import add_bias
from vqonnx.emitters.weights.replacement import Replacement
from vqonnx.errors import UnsupportedModelError
from vqonnx.graph.edit import add_initializer
from vqonnx.graph.facts import int_attribute
from vqonnx.graph.packed import packed_data
from vqonnx.graph.walk import constant_tensor
from vqonnx.kernels.blocks.packing import from_k_major, from_n_major, pack, unpack, unpack_zero_points

_OPSETS = {2: 25, 4: 21, 8: 13}
_HALF_OPSET = 19
_TYPES = {ir.DataType[f"{sign}INT{bits}"]: (bits, not sign) for bits in (2, 4, 8) for sign in ("", "U")}


@dataclass(frozen=True, slots=True)
class DequantizedWeight:
    """The inputs and attributes of DequantizeLinear that hold a weight [K, N].

    Attributes:
        key: What the initializers' names start with.
        codes: [K, N], of a signed type if there are no zero points, else of an unsigned one.
        scales: [J, N] or [N].
        zero_points: As the scales, in the type of the codes; None if all are 0.
        attributes: How the scales spread.
    """

    key: str
    codes: ir.TensorProtocol
    scales: ir.TensorProtocol
    zero_points: ir.TensorProtocol | None
    attributes: Mapping[str, int]

    @property
    def opset(self) -> int:
        """The first opset of ONNX that has all this."""
        least = 21 if "block_size" in self.attributes else _OPSETS[self.codes.dtype.bitwidth]
        half = self.scales.dtype != ir.DataType.FLOAT
        return max(least, _OPSETS[self.codes.dtype.bitwidth], _HALF_OPSET if half else 0)


def code_type(blocks: QuantizedBlocks) -> ir.DataType:
    """The element type of a weight's codes: signed if symmetric."""
    return ir.DataType[f"{'INT' if blocks.symmetric else 'UINT'}{blocks.bits}"]


def refuse_ragged(blocks: QuantizedBlocks) -> None:
    """Raise for what ONNX Runtime 1.31 fuses to wrong numbers, without a word.

    Raises:
        UnsupportedModelError: 2-bit codes of a number of outputs that is no multiple of 4.
    """
    if blocks.bits == 2 and blocks.out_features % 4:
        raise UnsupportedModelError(
            f"a weight with {blocks.out_features} outputs cannot be 2-bit QDQ: ONNX Runtime fuses 2-bit codes to wrong "
            "numbers unless the outputs are a multiple of 4. Use 4 bits for it, or format='matmul_nbits'."
        )


def multiply(replacement: Replacement, x: ir.Value, bias: ir.Value | None, *, weight: DequantizedWeight) -> ir.Value:
    """``x W + bias`` as DequantizeLinear and Gemm, where that is what the node was, or MatMul and Add."""
    parts = {
        f"Q{weight.codes.dtype.bitwidth}": weight.codes,
        "scales": weight.scales,
        "zero_points": weight.zero_points,
    }
    inputs = [_own(replacement, part, f"{weight.key}_{role}") for role, part in parts.items() if part is not None]
    matrix = replacement.add("DequantizeLinear", inputs, weight.attributes)
    matrix.type, matrix.shape = ir.TensorType(weight.scales.dtype), weight.codes.shape  # type: ignore[assignment]
    if replacement.node.op_type == "Gemm":
        return replacement.add("Gemm", [x, matrix] if bias is None else [x, matrix, bias], heir=True)
    return add_bias(replacement, replacement.add("MatMul", [x, matrix], heir=True), bias)


def _own(replacement: Replacement, tensor: ir.TensorProtocol, name: str) -> ir.Value:
    return add_initializer(replacement.graph, replacement.names.unique(name), tensor)


@dataclass(frozen=True, slots=True, eq=False)
class StoredWeight:
    """What a DequantizeLinear of a constant matrix holds, found but not read.

    Attributes:
        codes: [K, N], or [N, K] where ``transposed``; of 2, 4 or 8 bits.
        scales: One a block, in the order of the codes, one a channel, or one.
        zero_points: As the scales; None if all are 0.
        block_size: Neighbours along K that share a scale.
        transposed: Whether the output is [N, K].
    """

    codes: ir.TensorProtocol
    scales: ir.TensorProtocol
    zero_points: ir.TensorProtocol | None
    block_size: int
    transposed: bool

    def read(self) -> QuantizedBlocks:
        """The weight as blocks of codes: a copy, each time."""
        (bits, signed), shape = _TYPES[self.codes.dtype], self.codes.shape.numpy()
        k, n = reversed(shape) if self.transposed else shape
        groups = block_count(k, self.block_size)
        grid = (n, groups) if self.transposed else (groups, n)
        zero_points = None
        if self.zero_points is not None:
            zeros = unpack(packed_data(self.zero_points), bits, self.zero_points.size)
            zero_points = pack(_spread(zeros.reshape(self.zero_points.shape.numpy()), grid).reshape(-1), bits)
        stored = KMajorBlocks(
            codes=packed_data(self.codes),
            scales=_spread(self.scales.numpy(), grid),
            zero_points=zero_points,
            signed=signed,
            bits=bits,
            block_size=self.block_size,
            in_features=k,
            out_features=n,
        )
        return _normal(from_n_major(stored) if self.transposed else from_k_major(stored))


def find(node: ir.Node, *, transposed: bool = False) -> StoredWeight:
    """The weight of a DequantizeLinear node, blocked, per channel or per tensor.

    Args:
        node: DequantizeLinear (ONNX, opset 10 to 25, or com.microsoft).
        transposed: Whether its output is [N, K], not [K, N].

    Raises:
        UnsupportedModelError: The weight is computed, no matrix, or no integer of 2, 4 or 8 bits, or its scales run
            along another axis.
    """
    codes, scales = constant_tensor(node.inputs[0]), constant_tensor(node.inputs[1])
    if codes is None or scales is None:
        raise UnreadableWeightError(node, "its codes or scales are computed at run time")
    shape = tuple(codes.shape.numpy())
    if len(shape) != 2 or codes.dtype not in _TYPES:
        raise UnreadableWeightError(
            node, f"its codes are {codes.dtype.name.lower()} {list(shape)}, no matrix of 2, 4 or 8 bits"
        )
    if int_attribute(node, "output_dtype", 0) not in (0, int(scales.dtype)):
        raise UnreadableWeightError(node, "its output has another type than its scales")
    k, n = reversed(shape) if transposed else shape
    size = _block_size(node, tuple(scales.shape.numpy()), (k, n), transposed)
    return StoredWeight(codes, scales, _zero_points(node, codes.dtype, scales), size, transposed)


def read(node: ir.Node) -> QuantizedBlocks:
    """The weight of a DequantizeLinear node whose output is [K, N], as blocks of codes (a copy); see ``find``."""
    return find(node).read()


def _block_size(node: ir.Node, scales: tuple[int, ...], sizes: tuple[int, int], transposed: bool) -> int:
    """Neighbours along K that share a scale: K itself where a channel, or all of them, have one."""
    (k, n), along = sizes, 1 if transposed else 0
    axis, size = int_attribute(node, "axis", 1) % 2, int_attribute(node, "block_size", 0)
    if size:
        grid = [block_count(k, size), n]
        wanted = grid[::-1] if transposed else grid
        if axis != along:
            raise UnreadableWeightError(node, "its blocks run along the outputs, not along the sums")
        if list(scales) != wanted:
            raise UnreadableWeightError(node, f"its scales have shape {list(scales)} instead of {wanted}")
        return size
    if math.prod(scales) == 1 or (axis != along and scales == (n,)):
        return k
    raise UnreadableWeightError(node, "its scales run along the sums")


def _zero_points(node: ir.Node, dtype: ir.DataType, scales: ir.TensorProtocol) -> ir.TensorProtocol | None:
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return None
    tensor = constant_tensor(value)
    if tensor is None or tensor.dtype != dtype or tensor.shape != scales.shape:
        raise UnreadableWeightError(node, "its zero points are computed at run time, or unlike its codes and scales")
    return tensor


def _spread(parameter: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """One parameter a block: the same one for all, one a channel, or what is there already."""
    if parameter.shape == grid:
        return parameter
    row = parameter.reshape(-1)
    return np.ascontiguousarray(np.broadcast_to(row if grid[0] == 1 else row[:, None], grid))


def _normal(blocks: QuantizedBlocks) -> QuantizedBlocks:
    """The blocks without zero points, where all of them are the middle code."""
    middle = 1 << (blocks.bits - 1)
    return replace(blocks, zero_points=None) if np.all(unpack_zero_points(blocks) == middle) else blocks
