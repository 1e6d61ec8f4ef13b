"""com.microsoft.MatMulNBits: codes of 2, 4 or 8 bits that ONNX Runtime multiplies by without making them float first.

Facts of ONNX Runtime 1.31 on a CPU, that rule what is written here:

* blocks of 16 to 256 elements, a power of two; 2-bit codes in blocks of 16 lead to a plain loop, 200 times slower;
* zero points fast only as packed bytes: as floats they lead to that loop too, and with ``g_idx`` the numbers are wrong;
* float32 and float16; bfloat16 is for other providers;
* ``accuracy_level`` 4 rounds the inputs to 8 bits (42 to 48 dB); below it, 2 and 8 bits run in the plain loop.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from vqonnx.core.blocks import U8, FloatArray, QuantizedBlocks, block_count, packed_bytes
from vqonnx.emitters.weights.replacement import Replacement
from vqonnx.errors import OptionError, UnsupportedModelError
from vqonnx.graph.edit import add_initializer
from vqonnx.graph.facts import int_attribute
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.packed import computed_tensor, packed_data
from vqonnx.graph.walk import constant_tensor
from vqonnx.kernels.blocks.packing import unpack
from vqonnx.kernels.blocks.reblock import codes_in_blocks, scales_in_blocks, with_block_size, zero_points_in_blocks

OPERATOR = "com.microsoft::MatMulNBits"

_Data: TypeAlias = np.ndarray | ir.TensorProtocol
_CODES, _SCALES, _ZERO_POINTS, _GROUP_INDEX, _BIAS = 1, 2, 3, 4, 5


@dataclass(frozen=True, slots=True)
class NBitsWeight:
    """The inputs and attributes of MatMulNBits that hold a weight; several nodes may share them."""

    codes: ir.Value
    scales: ir.Value
    zero_points: ir.Value | None
    attributes: Mapping[str, int]


def multiply(
    replacement: Replacement, x: ir.Value, bias: ir.Value | None, *, weight: NBitsWeight, accuracy_level: int
) -> ir.Value:
    """``x W + bias`` as one node."""
    inputs = [x, weight.codes, weight.scales, weight.zero_points, None, bias]
    while inputs[-1] is None:
        inputs.pop()
    attributes = dict(weight.attributes)
    if accuracy_level:
        attributes["accuracy_level"] = accuracy_level
    return replacement.add(OPERATOR, inputs, attributes, heir=True)


def store(graph: ir.Graph, names: NameAllocator, key: str, blocks: QuantizedBlocks) -> NBitsWeight:
    """Add a weight's initializers to ``graph``; bodies inside it may read them.

    Raises:
        OptionError: There is no fast kernel for these blocks.
    """
    size = fast_block_size(blocks)
    codes: np.ndarray | ir.TensorProtocol = blocks.codes
    if size != blocks.block_size:
        shape = (blocks.out_features, block_count(blocks.in_features, size), packed_bytes(size, blocks.bits))
        codes = computed_tensor(partial(codes_in_blocks, blocks, size), ir.DataType.UINT8, shape)
    parts = (codes, scales_in_blocks(blocks, size), zero_points_in_blocks(blocks, size))
    return _stored(graph, names, key, parts, nbits_attributes(blocks, size))


def store_unread(
    graph: ir.Graph, names: NameAllocator, key: str, read_again: Callable[[], QuantizedBlocks]
) -> NBitsWeight:
    """``store`` for a weight that is not kept: ``read_again`` gives it now, and when the model is written.

    Raises:
        OptionError: There is no fast kernel for its blocks.
    """
    blocks = read_again()
    size = fast_block_size(blocks)

    def part(name: str, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.TensorProtocol:
        return computed_tensor(lambda: getattr(with_block_size(read_again(), size), name), dtype, shape)

    n, groups = blocks.out_features, block_count(blocks.in_features, size)
    packed = ir.DataType.UINT8
    zero_points = None
    if not blocks.symmetric:
        zero_points = part("zero_points", packed, (n, packed_bytes(groups, blocks.bits)))
    codes = part("codes", packed, (n, groups, packed_bytes(size, blocks.bits)))
    scales = part("scales", ir.DataType.from_numpy(blocks.scales.dtype), (n, groups))
    return _stored(graph, names, key, (codes, scales, zero_points), nbits_attributes(blocks, size))


def _stored(
    graph: ir.Graph,
    names: NameAllocator,
    key: str,
    parts: tuple[_Data, _Data, _Data | None],
    attributes: Mapping[str, int],
) -> NBitsWeight:
    codes, scales, zero_points = parts
    return NBitsWeight(
        add_initializer(graph, names.unique(f"{key}_Q{attributes['bits']}"), codes),
        add_initializer(graph, names.unique(f"{key}_scales"), scales),
        None if zero_points is None else add_initializer(graph, names.unique(f"{key}_zero_points"), zero_points),
        attributes,
    )


def nbits_attributes(blocks: QuantizedBlocks, size: int) -> dict[str, int]:
    """The attributes of MatMulNBits that describe the weight, in blocks of ``size``."""
    return {"K": blocks.in_features, "N": blocks.out_features, "bits": blocks.bits, "block_size": size}


def fast_block_size(blocks: QuantizedBlocks) -> int:
    """The size of blocks, the same or smaller, for which there is a fast kernel.

    One block that spans all of K becomes several that repeat its scale.

    Raises:
        OptionError: No such size can hold these codes.
    """
    smallest, largest = (32, 128) if blocks.bits == 2 else (16, 256)
    divisor = blocks.block_size & -blocks.block_size  # the largest power of two in it
    if divisor >= smallest:
        return min(divisor, largest)
    if blocks.blocks == 1:
        return min(largest, max(smallest, 1 << (blocks.in_features - 1).bit_length()))
    raise OptionError(
        f"ONNX Runtime has no fast kernel for {blocks.bits}-bit codes in blocks of {blocks.block_size}: use a "
        f"block_size of {smallest} to {largest}, a power of two",
        option="block_size",
    )


def read(node: ir.Node) -> QuantizedBlocks:
    """The weight of a MatMulNBits node; its codes are mapped where they lie in a file.

    Scales and zero points may be flat, as older tools write them.

    Raises:
        UnsupportedModelError: The weight is computed, or has float zero points, a ``g_idx`` or a layout for one device.
    """
    k, n, bits = (node.attributes[name].as_int() for name in ("K", "N", "bits"))
    size = node.attributes["block_size"].as_int()
    if _input(node, _GROUP_INDEX) is not None:
        raise UnreadableWeightError(node, "its rows are permuted (g_idx)")
    if bits not in (2, 4, 8):
        raise UnreadableWeightError(node, f"it has codes of {bits} bits")
    if int_attribute(node, "weight_prepacked", 0):
        raise UnreadableWeightError(node, "its codes lie as one device wants them (weight_prepacked)")
    blocks, width = block_count(k, size), packed_bytes(size, bits)
    return QuantizedBlocks(
        codes=_read_codes(node, n, blocks * width).reshape(n, blocks, width),
        scales=_read_scales(node, n, blocks),
        zero_points=stored_zero_points(node, _ZERO_POINTS, (n, blocks), bits),
        bits=bits,
        block_size=size,
        in_features=k,
        out_features=n,
    )


def _read_codes(node: ir.Node, rows: int, width: int) -> U8:
    """The first ``width`` bytes of each row."""
    tensor = _table(_input(node, _CODES), rows)
    if tensor is None or tensor.dtype != ir.DataType.UINT8 or tensor.size % rows or tensor.size < rows * width:
        raise UnreadableWeightError(node, "its codes are no constant of the size that its attributes say")
    return packed_data(tensor).reshape(rows, -1)[:, :width]


def _table(value: ir.Value | None, rows: int) -> ir.TensorProtocol | None:
    """The constant behind the Slice and Reshape that make a lookup's table the product's too (``gather_blocks``)."""
    while value is not None and (maker := value.producer()) is not None and maker.op_type in ("Reshape", "Slice"):
        value = maker.inputs[0]
    tensor = constant_tensor(value)
    return tensor if tensor is not None and tensor.shape.numpy()[0] in (rows, tensor.size) else None


def _read_scales(node: ir.Node, n: int, blocks: int) -> FloatArray:
    tensor = _table(_input(node, _SCALES), n)
    if tensor is None or tensor.size % n or tensor.size < n * blocks:
        raise UnreadableWeightError(node, "its scales are no constant of the size that its attributes say")
    return tensor.numpy().reshape(n, -1)[:, :blocks]


def stored_zero_points(node: ir.Node, index: int, shape: tuple[int, int], bits: int) -> U8 | None:
    """Packed zero points of a contrib operator, uint8 [N, ceil(J * bits / 8)]; None where all are the middle code.

    Args:
        node: MatMulNBits or GatherBlockQuantized.
        index: Which input they are.
        shape: [N, J], the shape of the scales.
        bits: Of a code.

    Raises:
        UnsupportedModelError: They are computed, floats, or of another size.
    """
    value = _input(node, index)
    if value is None:
        return None
    tensor = constant_tensor(value)
    if tensor is None:
        raise UnreadableWeightError(node, "its zero points are computed at run time")
    if tensor.dtype != ir.DataType.UINT8:
        raise UnreadableWeightError(node, f"its zero points are {tensor.dtype.name.lower()}, not packed codes")
    n, blocks = shape
    if tensor.size != n * packed_bytes(blocks, bits):
        raise UnreadableWeightError(
            node, f"it has {tensor.size} bytes of zero points instead of {n * packed_bytes(blocks, bits)}"
        )
    packed = packed_data(tensor).reshape(n, -1)
    return None if np.all(unpack(packed, bits, blocks) == 1 << (bits - 1)) else packed


class UnreadableWeightError(UnsupportedModelError):
    """A node whose weight cannot be taken as blocks of codes.

    Attributes:
        why: The reason alone.
    """

    def __init__(self, node: ir.Node, why: str) -> None:
        self.why = why
        super().__init__(f"the weight of node {node.name!r} ({node.op_type}) cannot be read: {why}.", node=node.name)


def codes_of(node: ir.Node) -> ir.Value | None:
    """The input of a MatMulNBits node that holds its codes."""
    return _input(node, _CODES)


def bias_of(node: ir.Node) -> ir.Value | None:
    """The bias of a MatMulNBits node."""
    return _input(node, _BIAS)


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None
