"""Weight-only quantization in the graph: every node of a plan, in the form that the plan gives its weight."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import onnx_ir as ir

from vqonnx.core.blocks import CodebookBlocks, PackedWeight, QuantizedBlocks
from vqonnx.core.weight_plan import Reader, WeightForm, WeightOnlyPlan, WeightPlan
from vqonnx.emitters.weights import bnb4, dequantize, gather_blocks, matmul_nbits
from vqonnx.emitters.weights.block_qdq import in_blocks
from vqonnx.emitters.weights.channel_qdq import per_channel
from vqonnx.emitters.weights.dequantize import DequantizedWeight
from vqonnx.emitters.weights.matmul_nbits import NBitsWeight
from vqonnx.emitters.weights.products import Multiply, replace_product
from vqonnx.errors import OptionError, UnsupportedModelError
from vqonnx.graph.edit import remove_dead
from vqonnx.graph.facts import int_attribute
from vqonnx.graph.names import NameAllocator

_CONTRIB = "com.microsoft"
_SLICE_OPSET = 10


class PackedLayer(Protocol):
    """A node that reads a packed weight [K, N].

    The second input of a MatMul, Gemm or 1x1 Conv, and the first of a Gather of rows, is the weight; a MatMul's has no
    axes that its input lacks. ``planning.weights.layers.Layer`` is one.
    """

    @property
    def node(self) -> ir.Node:
        """The node, still as it was."""

    @property
    def reader(self) -> Reader:
        """What it does with the weight."""

    @property
    def out_features(self) -> int:
        """N."""


@dataclass(frozen=True, slots=True)
class _Site:
    """Where packed weights go."""

    model: ir.Model
    names: NameAllocator
    accuracy_level: int

    def require_opset(self, minimum: int, key: str, form: WeightForm) -> None:
        """Raise if the model's opset is lower than what a form is written in."""
        opset = self.model.opset_imports.get("", 0)
        if opset < minimum:
            raise UnsupportedModelError(
                f"weight {key!r} needs opset {minimum} as {form.value!r}, and the model has {opset}. Export the model "
                f"with opset {minimum}, or use format='matmul_nbits'."
            )

    def replace(self, layers: Iterable[PackedLayer], multiply: Callable[[ir.Graph], Multiply]) -> None:
        """Write products; ``multiply`` gives the form for a graph."""
        for layer in layers:
            graph = layer.node.graph
            assert isinstance(graph, ir.Graph)
            replace_product(layer.node, layer.out_features, self.names, multiply(graph))


def emit_weights(
    model: ir.Model,
    plan: WeightOnlyPlan,
    layers: Mapping[str, PackedLayer],
    packed: Callable[[str], PackedWeight],
    names: NameAllocator | None = None,
) -> None:
    """Rewrite the planned nodes of a private model, in place.

    A node that is replaced hands its name to the one that takes its place, and its output keeps its name. Weights and
    what made them go, unless somebody else reads them. Arrays may be maps of files; what has to lie in another order is
    computed when the model is written, one tensor at a time.

    Args:
        model: The prepared float model.
        plan: Which weights become what.
        layers: The nodes of the plan, by name.
        packed: The packed weight of a key of the plan.
        names: Names that are taken in the model; found out if None.

    Raises:
        OptionError: A weight is packed in a way that its form has no fast kernel for.
        UnsupportedModelError: The model's opset, or a node, is beyond the form.
    """
    site = _Site(model, NameAllocator.of(model) if names is None else names, plan.accuracy_level)
    for weight in plan.weights.values():
        readers = [layers[name] for name in weight.readers]
        products = [layer for layer in readers if layer.reader is Reader.PRODUCT]
        lookups = [layer for layer in readers if layer.reader is Reader.LOOKUP]
        _EMITTERS[weight.form](site, weight, packed(weight.key), products, lookups)
    remove_dead(model)


Layers = Sequence[PackedLayer]


def _emit_nbits(site: _Site, plan: WeightPlan, packed: PackedWeight, products: Layers, lookups: Layers) -> None:
    """MatMulNBits; where lookups read the weight too, both read one table."""
    blocks, graph = _blocks(packed, plan), site.model.graph
    site.model.opset_imports.setdefault(_CONTRIB, 1)
    level = site.accuracy_level

    def form(weight: NBitsWeight) -> Multiply:
        return partial(matmul_nbits.multiply, weight=weight, accuracy_level=level)

    if not lookups:
        stored = matmul_nbits.store(graph, site.names, plan.key, blocks)
        site.replace(products, lambda _: form(stored))
        return
    table = _emit_table(site, plan, blocks, lookups, tied=bool(products))
    # Bodies get nodes of their own, so that each graph can be taken by itself.
    made: dict[ir.Graph, NBitsWeight] = {}

    def of_graph(graph: ir.Graph) -> Multiply:
        if graph not in made:
            made[graph] = gather_blocks.for_products(table, graph, site.names)
        return form(made[graph])

    site.replace(products, of_graph)


def _emit_table(
    site: _Site, plan: WeightPlan, blocks: QuantizedBlocks, lookups: Layers, *, tied: bool
) -> gather_blocks.Table:
    site.require_opset(_SLICE_OPSET, plan.key, plan.form)
    site.model.opset_imports.setdefault(_CONTRIB, 1)
    table = gather_blocks.store(site.model.graph, site.names, plan.key, blocks, tied=tied)
    for layer in lookups:
        gather_blocks.replace_lookup(layer.node, table, site.names)
    return table


def _emit_qdq(site: _Site, plan: WeightPlan, packed: PackedWeight, products: Layers, lookups: Layers) -> None:
    """DequantizeLinear; lookups get a table of their own, since its rows are the other way round."""
    blocks = _blocks(packed, plan)
    if products:
        _emit_dequantized(site, plan, dequantized_weight(plan.key, blocks), products)
    if lookups:
        _emit_table(site, plan, blocks, lookups, tied=False)


def dequantized_weight(key: str, blocks: QuantizedBlocks) -> DequantizedWeight:
    """A weight for DequantizeLinear: in its blocks, or per channel where the one that spans K is of no fast size."""
    alone = blocks.blocks == 1 and matmul_nbits.fast_block_size(blocks) != blocks.block_size
    return (per_channel if alone else in_blocks)(key, blocks)


def _emit_channel_qdq(site: _Site, plan: WeightPlan, packed: PackedWeight, products: Layers, lookups: Layers) -> None:
    _refuse_lookups(plan, lookups)
    _emit_dequantized(site, plan, per_channel(plan.key, _blocks(packed, plan)), products)


def _emit_dequantized(site: _Site, plan: WeightPlan, weight: DequantizedWeight, products: Layers) -> None:
    site.require_opset(weight.opset, plan.key, plan.form)
    site.replace(products, lambda _: partial(dequantize.multiply, weight=weight))


def _emit_bnb4(site: _Site, plan: WeightPlan, packed: PackedWeight, products: Layers, lookups: Layers) -> None:
    _refuse_lookups(plan, lookups)
    if not isinstance(packed, CodebookBlocks):
        raise _misfit(plan, packed)
    site.model.opset_imports.setdefault(_CONTRIB, 1)
    weight = bnb4.store(site.model.graph, site.names, plan.key, packed)
    site.replace(products, lambda _: partial(bnb4.multiply, weight=weight))


_EMITTERS: Mapping[WeightForm, Callable[[_Site, WeightPlan, PackedWeight, Layers, Layers], None]] = {
    WeightForm.MATMUL_NBITS: _emit_nbits,
    WeightForm.QDQ: _emit_qdq,
    WeightForm.CHANNEL_QDQ: _emit_channel_qdq,
    WeightForm.BNB4: _emit_bnb4,
}


def _blocks(packed: PackedWeight, plan: WeightPlan) -> QuantizedBlocks:
    if not isinstance(packed, QuantizedBlocks):
        raise _misfit(plan, packed)
    return packed


def _misfit(plan: WeightPlan, packed: PackedWeight) -> OptionError:
    return OptionError(
        f"weight {plan.key!r} is packed as {type(packed).__name__}, which format={plan.form.value!r} cannot hold",
        option="format",
    )


def _refuse_lookups(plan: WeightPlan, lookups: Layers) -> None:
    if lookups:
        raise UnsupportedModelError(
            f"node {lookups[0].node.name!r} looks rows up in weight {plan.key!r}, which has no such form as "
            f"{plan.form.value!r}. Exclude it (nodes_to_exclude), or use format='matmul_nbits'.",
            node=lookups[0].node.name,
        )


def read_blocks(node: ir.Node) -> PackedWeight:
    """The packed weight that a node reads, of any form written here or by other tools.

    Args:
        node: MatMulNBits, GatherBlockQuantized, MatMulBnb4, a DequantizeLinear of [K, N], or a MatMul or Gemm behind
            one.

    Raises:
        UnsupportedModelError: It has none, or one that is no blocks of codes.
    """
    read = _READERS.get(node.op_type)
    if read is not None:
        return read(node)
    weight = node.inputs[1] if node.op_type in ("MatMul", "Gemm") else None
    dequantizer = None if weight is None else weight.producer()
    if dequantizer is None or dequantizer.op_type != "DequantizeLinear":
        raise matmul_nbits.UnreadableWeightError(node, "it is not packed")
    return dequantize.find(dequantizer, transposed=bool(int_attribute(node, "transB", 0))).read()


_READERS: Mapping[str, Callable[[ir.Node], PackedWeight]] = {
    "MatMulNBits": matmul_nbits.read,
    "GatherBlockQuantized": gather_blocks.read,
    "MatMulBnb4": bnb4.read,
    "DequantizeLinear": dequantize.read,
}
