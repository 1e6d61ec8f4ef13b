"""com.microsoft.GatherBlockQuantized: rows of an embedding table, dequantized when they are looked up.

The table lies as uint8 [N, C] with its last axis quantized, scales as [N, J] and zero points as MatMulNBits has them.
Where a product multiplies by the same weight (tied embeddings), all three are stored once, for both: the product's
codes are a Reshape of the table, which ONNX Runtime folds when it loads the model and frees once its kernel has packed
them. Measured on 50,000 x 2,048 4-bit weights (66 MB): 86 MiB of memory besides the mapped file, as without the
lookup; 135 MiB if the Reshape stands at the lookup. Reading MatMulNBits' own [N, J, blob] tensor by a lookup of three
axes needs zero points of its own, and ONNX Runtime up to 1.26 reads those wrongly.

Up to 1.26 it also takes 4-bit zero points for one sequence without gaps between the rows, which is the same only if the
number of blocks is even. So a table with an odd number gets one byte more a row, which begins a block more.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx_ir as ir

from vqonnx.core.blocks import U8, FloatArray, QuantizedBlocks, block_count, packed_bytes
from vqonnx.emitters.weights.matmul_nbits import (
    NBitsWeight,
    UnreadableWeightError,
    fast_block_size,
    nbits_attributes,
    stored_zero_points,
)
from vqonnx.emitters.weights.replacement import Replacement
from vqonnx.graph.edit import add_initializer, insert_first, make_node
from vqonnx.graph.facts import int_attribute
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.packed import computed_tensor, packed_data
from vqonnx.graph.walk import constant, constant_tensor, only_reader
from vqonnx.kernels.blocks.packing import pack_blocks, unpack
from vqonnx.kernels.blocks.reblock import with_block_size

OPERATOR = "com.microsoft::GatherBlockQuantized"
_TABLE, _INDICES, _SCALES, _ZERO_POINTS = range(4)
_SMALLEST = 16


@dataclass(frozen=True, slots=True)
class Table:
    """A packed embedding table [N, K] in the graph.

    Attributes:
        codes: uint8 [N, C].
        scales: [N, ceil(C * 8 / bits / block_size)]: one block more than the weight has, if that makes it even.
        zero_points: uint8; None if all are the middle code.
        blocks: Shapes and sizes of the weight, in the blocks that are stored.
    """

    codes: ir.Value
    scales: ir.Value
    zero_points: ir.Value | None
    blocks: QuantizedBlocks

    @property
    def width(self) -> int:
        """Numbers that a lookup gives for a row: K, or more where rows are padded."""
        return int(_columns(self.codes) * 8 // self.blocks.bits)


def store(graph: ir.Graph, names: NameAllocator, key: str, blocks: QuantizedBlocks, *, tied: bool) -> Table:
    """Add a table's initializers to ``graph``; bodies inside it may read them.

    Args:
        graph: The main graph.
        names: Where names come from.
        key: What they start with.
        blocks: The weight [K, N], whose columns are the rows of the table.
        tied: Whether products read it too, whose last block must be whole.

    Raises:
        OptionError: There is no kernel for these blocks.
    """
    size = _SMALLEST if blocks.block_size == _SMALLEST and not tied else fast_block_size(blocks)
    if size != blocks.block_size:
        blocks = with_block_size(blocks, size)
    odd = blocks.bits == 4 and not blocks.symmetric and blocks.blocks % 2 == 1
    whole = blocks.codes.shape[1] * blocks.codes.shape[2]
    columns = whole + 1 if odd else whole if tied else packed_bytes(blocks.in_features, blocks.bits)
    codes = computed_tensor(partial(_rows, blocks, columns), ir.DataType.UINT8, (blocks.out_features, columns))
    scales = np.pad(blocks.scales, ((0, 0), (0, 1))) if odd else blocks.scales
    return Table(
        add_initializer(graph, names.unique(f"{key}_Q{blocks.bits}"), codes),
        add_initializer(graph, names.unique(f"{key}_scales"), scales),
        None
        if blocks.zero_points is None
        else add_initializer(graph, names.unique(f"{key}_zero_points"), blocks.zero_points),
        blocks,
    )


def _rows(blocks: QuantizedBlocks, columns: int) -> U8:
    """The codes as rows of ``columns`` bytes, cut or padded with 0."""
    rows = blocks.codes.reshape(blocks.out_features, -1)[:, :columns]
    return rows if rows.shape[1] == columns else np.pad(rows, ((0, 0), (0, columns - rows.shape[1])))


def replace_lookup(node: ir.Node, table: Table, names: NameAllocator) -> None:
    """Let a Gather of rows look them up in the packed table, in place."""
    replacement = Replacement(node, names)
    inputs = [table.codes, node.inputs[1], table.scales]
    if table.zero_points is not None:
        inputs.append(table.zero_points)
    blocks = table.blocks
    form = {"gather_axis": 0, "quantize_axis": 1, "block_size": blocks.block_size, "bits": blocks.bits}
    rows = replacement.add(OPERATOR, inputs, form, heir=True)
    if table.width != blocks.in_features:
        ends = [(0, "start"), (blocks.in_features, "end"), (-1, "axis")]
        rows = replacement.add("Slice", [rows, *(replacement.constant(np.array([n]), role) for n, role in ends)])
    replacement.finish(rows)


def for_products(table: Table, graph: ir.Graph, names: NameAllocator) -> NBitsWeight:
    """The table as MatMulNBits reads it, by nodes at the beginning of ``graph`` that runtimes fold."""
    blocks, name = table.blocks, table.codes.name
    n, count, width = blocks.codes.shape
    nodes: list[ir.Node] = []

    def first(value: ir.Value, columns: int) -> ir.Value:
        """The first columns of each row, where there are more."""
        if _columns(value) == columns:
            return value
        ends = [_ints(graph, names, f"{name}_{role}", [number]) for role, number in _slice(columns)]
        nodes.append(make_node(names, "Slice", [value, *ends], name=f"{value.name}_Slice"))
        return nodes[-1].outputs[0]

    codes, scales = first(table.codes, count * width), first(table.scales, count)
    shape = _ints(graph, names, f"{name}_shape", [n, count, width])
    nodes.append(make_node(names, "Reshape", [codes, shape], name=f"{name}_Reshape"))
    insert_first(graph, nodes)
    product_codes = nodes[-1].outputs[0]
    return NBitsWeight(product_codes, scales, table.zero_points, nbits_attributes(blocks, blocks.block_size))


def _slice(columns: int) -> list[tuple[str, int]]:
    return [("start", 0), ("end", columns), ("axis", 1)]


def _ints(graph: ir.Graph, names: NameAllocator, name: str, numbers: list[int]) -> ir.Value:
    return add_initializer(graph, names.unique(name), np.array(numbers, np.int64))


def _columns(value: ir.Value) -> int:
    tensor = constant_tensor(value)
    assert tensor is not None
    return int(tensor.shape.numpy()[1])


def read(node: ir.Node) -> QuantizedBlocks:
    """The table of a GatherBlockQuantized node as a weight [K, N]; its codes are a copy only if rows are padded.

    K is what the node's output is cut to, where a Slice behind it does that.

    Raises:
        UnsupportedModelError: The table is computed, not uint8 [N, C], or quantized along another axis.
    """
    tensor = constant_tensor(node.inputs[_TABLE])
    bits, size = int_attribute(node, "bits", 4), int_attribute(node, "block_size", 128)
    axes = int_attribute(node, "gather_axis", 0), int_attribute(node, "quantize_axis", 1)
    if tensor is None or tensor.dtype != ir.DataType.UINT8 or len(tensor.shape) != 2 or axes not in ((0, 1), (0, -1)):
        raise UnreadableWeightError(node, "its table is not a constant of packed rows, uint8 [N, C]")
    n, columns = tensor.shape.numpy()
    scales: FloatArray | None = constant(node.inputs[_SCALES])
    if scales is None or scales.ndim != 2 or len(scales) != n:
        raise UnreadableWeightError(node, "its scales are no constant [N, J]")
    zero_points = stored_zero_points(node, _ZERO_POINTS, (n, scales.shape[1]), bits)
    k = _width(node, columns * 8 // bits)
    count = block_count(k, size)
    if zero_points is not None:
        zero_points = zero_points[:, : packed_bytes(count, bits)]
    return QuantizedBlocks(
        codes=_blocks_of(packed_data(tensor).reshape(n, columns), zero_points, (k, size), bits),
        scales=scales[:, :count],
        zero_points=zero_points,
        bits=bits,
        block_size=size,
        in_features=k,
        out_features=n,
    )


def _blocks_of(rows: U8, zero_points: U8 | None, sizes: tuple[int, int], bits: int) -> U8:
    """Packed rows of ``sizes`` = K codes in blocks, the last one padded; a view where the rows are long enough."""
    k, size = sizes
    count, width = block_count(k, size), packed_bytes(size, bits)
    if rows.shape[1] >= count * width:
        return rows[:, : count * width].reshape(-1, count, width)
    unpacked = None if zero_points is None else unpack(zero_points, bits, count)
    scales = np.empty((len(rows), count), np.float32)
    return pack_blocks(unpack(rows, bits, k), scales, unpacked, bits=bits, block_size=size).codes


def _width(node: ir.Node, full: int) -> int:
    """How many numbers of each row are used: as many as a Slice behind the lookup leaves, or all."""
    reader = only_reader(node.outputs[0])
    if reader is None or reader[0].op_type != "Slice":
        return full
    start, end, axis = (constant(value) for value in reader[0].inputs[1:4])
    if start is None or end is None or axis is None or list(axis) != [-1] or list(start) != [0]:
        return full
    return min(full, int(end[0]))
