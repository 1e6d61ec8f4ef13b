"""Convert packed weights between two forms without loss: com.microsoft.MatMulNBits and ONNX's DequantizeLinear."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from vqonnx.core.blocks import QuantizedBlocks
from vqonnx.core.plan import Skip
from vqonnx.core.weight_plan import FLOAT16_IN_BODY, WeightForm
from vqonnx.emitters.weights import dequantize, matmul_nbits
from vqonnx.emitters.weights.emit import dequantized_weight, read_blocks
from vqonnx.emitters.weights.matmul_nbits import UnreadableWeightError
from vqonnx.emitters.weights.products import replace_product
from vqonnx.emitters.weights.replacement import Replacement
from vqonnx.errors import OptionError, UnsupportedModelError, VerificationError
from vqonnx.graph.edit import remove_dead
from vqonnx.graph.facts import float_attribute, int_attribute
from vqonnx.graph.io import load
from vqonnx.graph.names import NameAllocator, ensure_unique_names
from vqonnx.graph.walk import constant_tensor, nodes_by_name
from vqonnx.kernels.blocks.packing import unpack_zero_points
from vqonnx.kernels.blocks.reblock import with_block_size
from vqonnx.transforms.opset import upgrade_opset

_CONTRIB = "com.microsoft"
_QDQ_OPSET = 21

Read = Callable[[], QuantizedBlocks]


@dataclass(frozen=True, slots=True, eq=False)
class Converted:
    """What became of the packed weights of a model.

    Attributes:
        weights: By the name of each converted node, what reads its weight as it was.
        kept: The nodes with a packed weight that stay as they are, and why.
    """

    weights: Mapping[str, Read]
    kept: tuple[Skip, ...]


def convert(model: ir.Model, to: WeightForm, *, accuracy_level: int = 4) -> Converted:
    """Rewrite every product with a packed weight into the form ``to``, in place.

    Codes, scales and zero points stay what they are, bit by bit; blocks for which the form has no fast kernel are
    split. No weight is kept in memory: each is read again when the model is written.

    Args:
        model: A private model; its opset is raised where DequantizeLinear needs it.
        to: ``QDQ`` or ``MATMUL_NBITS``.
        accuracy_level: MatMulNBits' attribute. QDQ has none: there the session decides.

    Raises:
        OptionError: There is no way to that form.
        UnsupportedModelError: There is nothing to convert, or the opset cannot be raised.
    """
    ensure_unique_names(model)
    if to is WeightForm.QDQ:
        rewrite: Callable[[ir.Node], Read | None] = _ToQdq.of(model)
    elif to is WeightForm.MATMUL_NBITS:
        rewrite = _ToNBits(model, NameAllocator.of(model), accuracy_level)
    else:
        raise OptionError(f"to: {to.value!r} is no form to convert to; take 'qdq' or 'matmul_nbits'.", option="to")
    weights: dict[str, Read] = {}
    kept: list[Skip] = []
    for node in list(model.graph.all_nodes()):
        name, op_type = node.name or "", node.op_type
        try:
            read = rewrite(node)
        except (OptionError, UnsupportedModelError) as error:
            kept.append(Skip(name, op_type, error.why if isinstance(error, UnreadableWeightError) else str(error)))
            continue
        if read is not None:
            weights[name] = read
    if not weights:
        raise UnsupportedModelError(_nothing(to, kept))
    remove_dead(model)
    return Converted(weights, tuple(kept))


def _nothing(to: WeightForm, kept: Sequence[Skip]) -> str:
    if not kept:
        return f"the model has no packed weight that could become {to.value!r}."
    more = f" (and {len(kept) - 1} more)" if len(kept) > 1 else ""
    return f"no packed weight of the model can become {to.value!r}. Node {kept[0].node!r}{more}: {kept[0].reason}"


@dataclass(frozen=True, slots=True)
class _ToQdq:
    """From MatMulNBits to DequantizeLinear and MatMul."""

    graph: ir.Graph
    opset: int
    names: NameAllocator

    @classmethod
    def of(cls, model: ir.Model) -> "_ToQdq":
        """For a model whose opset is raised if it has something to convert."""
        if any(_is_contrib(node, "MatMulNBits") for node in model.graph.all_nodes()):
            upgrade_opset(model, _QDQ_OPSET)
        return cls(model.graph, model.opset_imports.get("", 0), NameAllocator.of(model))

    def __call__(self, node: ir.Node) -> Read | None:
        if _is_contrib(node, "GatherBlockQuantized", "MatMulBnb4"):
            raise UnsupportedModelError(f"{node.op_type} has no form with DequantizeLinear that ONNX Runtime fuses.")
        if not _is_contrib(node, "MatMulNBits"):
            return None
        blocks = matmul_nbits.read(node)
        if blocks.scales.dtype == np.float16 and node.graph is not self.graph:
            raise UnsupportedModelError(f"{FLOAT16_IN_BODY}.")
        weight = dequantized_weight(_key(matmul_nbits.codes_of(node)), blocks)
        if self.opset < weight.opset:
            raise UnsupportedModelError(
                f"{blocks.bits}-bit codes need opset {weight.opset}; the model has {self.opset}."
            )
        replacement = Replacement(node, self.names)
        x, bias = node.inputs[0], matmul_nbits.bias_of(node)
        assert x is not None
        replacement.finish(dequantize.multiply(replacement, x, bias, weight=weight))
        return lambda: blocks


@dataclass(frozen=True, slots=True)
class _ToNBits:
    """From DequantizeLinear and MatMul or Gemm to MatMulNBits."""

    model: ir.Model
    names: NameAllocator
    accuracy_level: int
    stored: dict[tuple[ir.Node, bool], tuple[matmul_nbits.NBitsWeight, Read]] = field(default_factory=dict)
    last: "_LastRead" = field(default_factory=lambda: _LastRead())

    def __call__(self, node: ir.Node) -> Read | None:
        source = _dequantized_weight(node)
        if source is None:
            return None
        if source not in self.stored:
            self.stored[source] = self._store(*source)
        weight, read = self.stored[source]
        multiply = partial(matmul_nbits.multiply, weight=weight, accuracy_level=self.accuracy_level)
        replace_product(node, weight.attributes["N"], self.names, multiply)
        return read

    def _store(self, dequantizer: ir.Node, transposed: bool) -> tuple[matmul_nbits.NBitsWeight, Read]:
        found = dequantize.find(dequantizer, transposed=transposed)
        read = self.last.through(found.read)
        weight = matmul_nbits.store_unread(self.model.graph, self.names, _key(dequantizer.inputs[0]), read)
        self.model.opset_imports.setdefault(_CONTRIB, 1)
        return weight, read


class _LastRead:
    """Keeps the one weight that was read last: its codes, scales and zero points are written one after the other."""

    def __init__(self) -> None:
        self._read: Read | None = None
        self._blocks: QuantizedBlocks | None = None

    def through(self, read: Read) -> Read:
        """``read``, but for repetitions."""

        def again() -> QuantizedBlocks:
            if self._blocks is None or self._read is not read:
                self._blocks = None  # before the next one is made
                self._read, self._blocks = read, read()
            return self._blocks

        return again


def _dequantized_weight(node: ir.Node) -> tuple[ir.Node, bool] | None:
    """The DequantizeLinear of a product's constant weight, and whether its output is the transpose of W [K, N].

    Raises:
        UnsupportedModelError: The node reads such a weight in a way that MatMulNBits has not.
    """
    if node.op_type == "Transpose" or node.op_type == "DequantizeLinear":
        return None  # its readers are looked at
    sources = [_behind(value) for value in node.inputs]
    if not any(sources):
        return None
    if node.op_type not in ("Gemm", "MatMul") or node.domain:
        raise UnsupportedModelError(f"{node.op_type} has no form with MatMulNBits.")
    source = sources[1]
    if source is None:
        raise UnsupportedModelError("the packed weight is not its second input.")
    x = node.inputs[0]
    maker = None if x is None else x.producer()
    if maker is not None and maker.op_type == "DequantizeLinear":
        raise UnsupportedModelError("its input is quantized too, for which ONNX Runtime has integer kernels.")
    if float_attribute(node, "alpha", 1.0) != 1:
        raise UnsupportedModelError("its product is multiplied by alpha, which would round the scales.")
    if x is not None and x.shape is not None and len(x.shape) == 1:
        raise UnsupportedModelError("its input has one axis.")
    dequantizer, transposed = source
    return dequantizer, transposed != bool(int_attribute(node, "transB", 0))


def _behind(value: ir.Value | None) -> tuple[ir.Node, bool] | None:
    """The DequantizeLinear of a constant with several axes that makes ``value``, perhaps through a Transpose."""
    node = None if value is None else value.producer()
    transposed = False
    if node is not None and node.op_type == "Transpose" and node.inputs[0] is not None:
        node, transposed = node.inputs[0].producer(), True
    if node is None or node.op_type != "DequantizeLinear":
        return None
    codes = constant_tensor(node.inputs[0])
    return None if codes is None or len(codes.shape) < 2 else (node, transposed)


def _is_contrib(node: ir.Node, *op_types: str) -> bool:
    return node.domain == _CONTRIB and node.op_type in op_types


def _key(codes: ir.Value | None) -> str:
    """What the names of the new initializers start with."""
    return re.sub(r"_Q[248](_\d+)?$", "", codes.name or "") if codes is not None and codes.name else "weight"


def check_converted(written: Path, converted: Converted) -> None:
    """Read every converted weight of a file and compare it with what it was, one weight at a time.

    Raises:
        VerificationError: A code, scale or zero point differs, or a node is missing.
    """
    nodes = nodes_by_name(load(written))
    for name, read in converted.weights.items():
        if name not in nodes or not _equal(read(), _written(nodes[name])):
            raise VerificationError(
                f"the weight of node {name!r} is not what it was before the conversion. Nothing was saved; report it.",
                path=str(written),
            )


def _written(node: ir.Node) -> QuantizedBlocks:
    blocks = read_blocks(node)
    assert isinstance(blocks, QuantizedBlocks)
    return blocks


def _equal(before: QuantizedBlocks, after: QuantizedBlocks) -> bool:
    """Whether two weights are the same bit by bit, the first one perhaps in larger blocks."""
    if before.block_size != after.block_size:
        before = with_block_size(before, after.block_size)
    return (
        before.bits == after.bits
        and np.array_equal(before.codes, after.codes)
        and before.scales.tobytes() == after.scales.tobytes()
        and np.array_equal(unpack_zero_points(before), unpack_zero_points(after))
    )
