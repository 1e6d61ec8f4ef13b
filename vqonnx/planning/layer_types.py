"""The specs of the tensors around each node: by node, by operator, by what is never negative, by blocks' axis."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from vqonnx.core.block_formats import BLOCK_FORMATS
from vqonnx.core.granularity import PerBlock, PerTensor
from vqonnx.core.plan import Role
from vqonnx.core.qtype import QTYPES, Kind, QType
from vqonnx.core.spec import QuantSpec
from vqonnx.core.target import Kernel
from vqonnx.graph.facts import clip_bounds, int_attribute
from vqonnx.planning.candidate import Candidate
from vqonnx.planning.forms import form_of
from vqonnx.planning.partition import Partition
from vqonnx.planning.rules import LayerTypes, PlanRules
from vqonnx.planning.selection import matching

_BLOCK_AXIS = 1
"""Channels: of what no product reads along another axis."""


def types_by_node(nodes: Sequence[ir.Node], layers: Sequence[LayerTypes]) -> dict[str, LayerTypes]:
    """The types asked for each node that a pattern chooses, by name; of several the last, field by field.

    Raises:
        OptionError: A pattern matches no node.
    """
    found: dict[str, LayerTypes] = {}
    for layer in layers:
        for name in matching(nodes, [layer.pattern], "LayerTypes"):
            before = found.get(name, layer)
            found[name] = replace(
                layer, activation=layer.activation or before.activation, weight=layer.weight or before.weight
            )
    return found


def with_qtype(spec: QuantSpec, qtype: QType | None) -> QuantSpec:
    """The spec with another type; unsigned integers cannot be symmetric about zero and give that up."""
    if qtype is None or qtype == spec.qtype:
        return spec
    return replace(spec, qtype=qtype, symmetric=spec.symmetric and qtype.signed)


class TensorTypes:
    """Answers for one plan which spec an activation or a weight has."""

    def __init__(self, partition: Partition, rules: PlanRules, layers: Mapping[str, LayerTypes]) -> None:
        self._partition, self._rules, self._layers = partition, rules, layers

    def made(self, value: ir.Value) -> QuantSpec:
        """The spec of what an integer node computes; what is only moved keeps that of what was moved."""
        maker = self._partition.maker(value)
        asked = self._asked_of_source(maker)
        if asked is not None:
            return asked
        moved = maker
        while moved is not None and moved.support.kernel is Kernel.MOVES:
            source = moved.input(moved.activations()[0])
            before = self._partition.maker(source)
            if before is None:
                break
            moved = before
        spec = self._of_node(moved, self._rules.activation) if moved is not None else self._rules.activation
        if self._rules.unsigned_relu and moved is not None and _never_negative(moved.tail):
            spec = unsigned(spec)
        reader = next(iter(self._partition.integer_readers(value)), None)
        if reader is not None:
            return blocked(spec, value, reader)
        return with_blocks(spec, value, -1 if moved is not None and moved.node.op_type in ("Gemm", "MatMul") else 1)

    def _asked_of_source(self, mover: Candidate | None) -> QuantSpec | None:
        """The spec that the user gave to what a mover reads, or to where that was moved from; None for neither."""
        if mover is None or mover.support.kernel is not Kernel.MOVES or not self._rules.overrides:
            return None
        source = mover.input(mover.activations()[0])
        override = None if source is None else self._rules.overrides.get(source.name or "")
        if source is None or override is None:
            return self._asked_of_source(self._partition.maker(source))
        spec = form_of(source.name or "", Role.ACTIVATION, self.made(source), override).spec
        conversion = override.conversion
        if conversion is not None and (not conversion.readers or mover.name in conversion.readers):
            return form_of(source.name or "", Role.ACTIVATION, spec, conversion.form).spec
        return spec

    def read(self, value: ir.Value, reader: Candidate) -> QuantSpec:
        """The spec that a node wants of what it reads."""
        return blocked(self._of_node(reader, self._rules.activation), value, reader)

    def differs(self, value: ir.Value, reader: Candidate) -> bool:
        """Whether a reader was given another type than the node that computes the value."""
        maker = self._partition.maker(value)
        if maker is None or reader.support.kernel is Kernel.MOVES:
            return False
        return self._of_node(reader, self._rules.activation).qtype != self._source_type(maker)

    def weight(self, value: ir.Value, reader: Candidate) -> QuantSpec:
        """The spec of a weight, one scale for all of it."""
        layer = self._layers.get(reader.name)
        spec = reader.support.weight_spec or self._rules.weight
        return blocked(with_qtype(spec, layer.weight if layer else None), value, reader)

    def _source_type(self, maker: Candidate) -> QType:
        while maker.support.kernel is Kernel.MOVES:
            before = self._partition.maker(maker.input(maker.activations()[0]))
            if before is None:
                break
            maker = before
        return self._of_node(maker, self._rules.activation).qtype

    def _of_node(self, candidate: Candidate, spec: QuantSpec) -> QuantSpec:
        """The activation spec of a node; an activation function has that of the node that it belongs to."""
        if candidate.name not in self._layers and self._partition.follows(candidate):
            before = self._partition.maker(candidate.input(0))
            return self._of_node(before, spec) if before is not None else spec
        layer = self._layers.get(candidate.name)
        return with_qtype(spec, layer.activation if layer else None)


def unsigned(spec: QuantSpec) -> QuantSpec:
    """The unsigned type of as many bits, from zero on; a spec of another kind stays."""
    if spec.qtype.kind is not Kind.INTEGER or not spec.qtype.signed:
        return spec
    return replace(spec, qtype=QTYPES[f"u{spec.qtype.name}"], symmetric=False)


def _never_negative(node: ir.Node) -> bool:
    bounds = clip_bounds(node) if node.op_type in ("Relu", "Clip") else None
    return bounds is not None and bounds[0] >= 0


def blocked(spec: QuantSpec, value: ir.Value, reader: Candidate) -> QuantSpec:
    """The spec with blocks along the axis over which ``reader`` adds up, where its type is a block format."""
    rank = len(value.shape) if value.shape is not None else 0
    if spec.qtype.name not in BLOCK_FORMATS or rank == 0:
        return with_blocks(spec, value, 0)
    index = next(i for i, one in enumerate(reader.node.inputs) if one is value)
    return with_blocks(spec, value, summed_axis(reader.node, index, rank))


def with_blocks(spec: QuantSpec, value: ir.Value, axis: int) -> QuantSpec:
    """The spec with blocks along an axis, or the last that there is, where its type is a block format."""
    fmt = BLOCK_FORMATS.get(spec.qtype.name)
    if fmt is None:
        return spec
    rank = len(value.shape) if value.shape is not None else 0
    if rank == 0:
        return replace(spec, granularity=PerTensor())
    return replace(spec, granularity=PerBlock(axis % rank if axis < 0 else min(axis, rank - 1), fmt.block_size))


def summed_axis(node: ir.Node, index: int, rank: int) -> int:
    """The axis of an input that a node adds products up over; channels where it is no product of matrices."""
    if node.op_type == "MatMul":
        return rank - 1 if index == 0 or rank == 1 else rank - 2
    if node.op_type == "Gemm" and index < 2:
        flipped = int_attribute(node, ("transA", "transB")[index], 0) == 1
        return int(flipped) if index else 1 - int(flipped)
    if node.op_type == "Softmax":
        return int_attribute(node, "axis", -1) % rank
    return min(_BLOCK_AXIS, rank - 1)
