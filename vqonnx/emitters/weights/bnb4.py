"""com.microsoft.MatMulBnb4: a product with a weight of 4-bit indices into bitsandbytes' code book, NF4 or FP4.

ONNX Runtime 1.31 has no kernel for the codes on a CPU: it makes the weight float at each call, which for one row takes
ten times the time of the float product. The form is for GPUs, and for files that stay small.
"""

from dataclasses import dataclass

import onnx_ir as ir

from vqonnx.core.blocks import CodebookBlocks, block_count, packed_bytes
from vqonnx.emitters.weights.matmul_nbits import UnreadableWeightError
from vqonnx.emitters.weights.products import add_bias
from vqonnx.emitters.weights.replacement import Replacement
from vqonnx.errors import OptionError
from vqonnx.graph.edit import add_initializer
from vqonnx.graph.facts import int_attribute
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.packed import packed_data
from vqonnx.graph.walk import constant, constant_tensor
from vqonnx.kernels.blocks.codebook import FP4, NF4, code_book

OPERATOR = "com.microsoft::MatMulBnb4"
_BITS = 4
_BOOKS = {book.quant_type: book.name for book in (FP4, NF4)}


@dataclass(frozen=True, slots=True)
class Bnb4Weight:
    """The inputs of MatMulBnb4 that hold a weight; several nodes may share them."""

    codes: ir.Value
    absmax: ir.Value
    blocks: CodebookBlocks


def store(graph: ir.Graph, names: NameAllocator, key: str, blocks: CodebookBlocks) -> Bnb4Weight:
    """Add a weight's initializers to ``graph``; bodies inside it may read them.

    Raises:
        OptionError: The operator does not know the code book.
    """
    if code_book(blocks.book).quant_type is None:
        raise OptionError(f"{OPERATOR} has no code book {blocks.book!r}; use 'nf4' or 'fp4'", option="format")
    return Bnb4Weight(
        add_initializer(graph, names.unique(f"{key}_{blocks.book}"), blocks.codes),
        add_initializer(graph, names.unique(f"{key}_absmax"), blocks.absmax),
        blocks,
    )


def multiply(replacement: Replacement, x: ir.Value, bias: ir.Value | None, *, weight: Bnb4Weight) -> ir.Value:
    """``x W``, and an Add of the bias, which the operator does not take."""
    blocks = weight.blocks
    quant_type = code_book(blocks.book).quant_type
    assert quant_type is not None
    form = {
        "K": blocks.in_features,
        "N": blocks.out_features,
        "block_size": blocks.block_size,
        "quant_type": quant_type,
    }
    product = replacement.add(OPERATOR, [x, weight.codes, weight.absmax], form, heir=True)
    return add_bias(replacement, product, bias)


def read(node: ir.Node) -> CodebookBlocks:
    """The weight of a MatMulBnb4 node; its codes are mapped where they lie in a file.

    Raises:
        UnsupportedModelError: The weight is computed, transposed, or has another code book.
    """
    k, n, size = (node.attributes[name].as_int() for name in ("K", "N", "block_size"))
    book = _BOOKS.get(node.attributes["quant_type"].as_int())
    codes, absmax = constant_tensor(node.inputs[1]), constant(node.inputs[2])
    if book is None or not int_attribute(node, "transB", 1):
        raise UnreadableWeightError(node, "it is of an unknown code book or not transposed")
    if codes is None or codes.nbytes != packed_bytes(n * k, _BITS) or codes.dtype != ir.DataType.UINT8:
        raise UnreadableWeightError(node, "its codes are no constant of the size that its attributes say")
    if absmax is None or absmax.size != block_count(n * k, size):
        raise UnreadableWeightError(node, "its scales are no constant of the size that its attributes say")
    return CodebookBlocks(
        codes=packed_data(codes),
        absmax=absmax.reshape(-1),
        book=book,
        block_size=size,
        in_features=k,
        out_features=n,
    )
