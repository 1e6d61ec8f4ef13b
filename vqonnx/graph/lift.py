"""Values inside bodies of If, Loop and Scan as values of the main graph: their elements in every run of the body.

A body runs as often as it does: a Loop's trips, one branch of two, bodies within bodies. What a value holds in all of
these runs comes out as one vector; an empty one where its body was not run. Shapes may differ from trip to trip.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vqonnx.graph.edit import add_initializer, insert_after, insert_before, make_node, replace_uses
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import control_flow_graphs, subgraphs

_TRIP_AND_CONDITION = 2
_Way: TypeAlias = Callable[[ir.Node, ir.Graph, ir.Value], ir.Value]
"""What brings a vector out of the body of a node."""


def holders(model: ir.Model) -> dict[ir.Graph, ir.Node]:
    """The node that holds each body of If, Loop and Scan in or below the main graph."""
    return {body: node for graph in control_flow_graphs(model.graph) for node in graph for body in subgraphs(node)}


def lift(model: ir.Model, values: Iterable[ir.Value], *, stacked: bool = False) -> None:
    """Let the main graph of a private model compute values of bodies too, in place.

    The vector of a value takes over its name; nobody reads it. ONNX operators of opset 13 and older are added:
    If, Loop and Scan get one output more a value, a Loop by a sequence that it carries, since what its trips give need
    not be of one size (Scan's must be). ONNX Runtime 1.31 copies the list of a sequence's tensors for each one that is
    added, so that time grows with the square of the trips: 18 ms for 1000, 0.4 s for 5000. It stacks in line with them,
    and fails at a trip that gives another size.

    Args:
        model: A model of opset 13 or newer.
        values: Float values of bodies; those inside functions, or bodies of other operators, cannot be reached.
        stacked: Let Loops stack the values of their own bodies.
    """
    lifting = _Lifting(model, stacked=stacked)
    for value in values:
        lifting.lift(value)


class _Lifting:
    """The model being changed."""

    def __init__(self, model: ir.Model, *, stacked: bool) -> None:
        self._graph, self._names, self._holders = model.graph, NameAllocator.of(model), holders(model)
        self._constants: dict[str, ir.Value] = {}
        self._stacked = stacked
        self._ways: Mapping[str, _Way] = {
            "If": self._out_of_if,
            "Loop": self._out_of_loop,
            "Scan": self._out_of_scan,
        }

    def lift(self, value: ir.Value) -> None:
        """Add the vector of one value."""
        name, graph = str(value.name), value.graph
        value.name = self._names.unique(f"{name}_inside")
        assert isinstance(graph, ir.Graph)
        lifted = self._row(value)
        graph.append(lifted)
        result = lifted.outputs[0]
        if self._stacked and graph is not self._graph and self._holders[graph].op_type == "Loop":
            result, graph = self._out_of(self._stack, graph, result)
        while graph is not self._graph:
            result, graph = self._out_of(self._ways[self._holders[graph].op_type], graph, result)
        result.name = name

    def _out_of(self, way: _Way, graph: ir.Graph, row: ir.Value) -> tuple[ir.Value, ir.Graph]:
        """A vector of a body as one of the graph around it, and that graph."""
        holder = self._holders[graph]
        outer = holder.graph
        assert isinstance(outer, ir.Graph)
        return way(holder, graph, row), outer

    def _row(self, value: ir.Value) -> ir.Node:
        """All elements of a value as a vector."""
        node = make_node(self._names, "Reshape", [value, self._constant("all_elements", np.array([-1]))])
        node.outputs[0].type, node.outputs[0].shape = value.type, ir.Shape([None])
        return node

    def _out_of_if(self, holder: ir.Node, graph: ir.Graph, row: ir.Value) -> ir.Value:
        for body in subgraphs(holder):
            result = row
            if body is not graph:
                nothing = self._like(row, "Identity", [self._empty(row)])
                body.append(nothing)
                result = nothing.outputs[0]
            body.outputs.append(result)
        return self._new_output(holder, row)

    def _out_of_loop(self, holder: ir.Node, graph: ir.Graph, row: ir.Value) -> ir.Value:
        assert isinstance(row.type, ir.TensorType)
        kind, carried = ir.SequenceType(row.type), len(graph.inputs) - _TRIP_AND_CONDITION
        start = make_node(self._names, "SequenceConstruct", [self._empty(row)])
        before = ir.Value(name=self._names.unique(f"{row.name}_before"), type=kind)
        after = make_node(self._names, "SequenceInsert", [before, row])
        start.outputs[0].type = after.outputs[0].type = kind
        insert_before(holder, start)
        graph.inputs.append(before)
        graph.append(after)
        graph.outputs.insert(1 + carried, after.outputs[0])
        holder.resize_inputs(_TRIP_AND_CONDITION + carried + 1)
        holder.replace_input_with(_TRIP_AND_CONDITION + carried, start.outputs[0])
        rows = self._inserted_output(holder, carried)
        rows.type = kind
        joined = self._like(row, "ConcatFromSequence", [rows], {"axis": 0})
        insert_after(holder, joined)
        return joined.outputs[0]

    def _out_of_scan(self, holder: ir.Node, graph: ir.Graph, row: ir.Value) -> ir.Value:
        for name in ("scan_output_axes", "scan_output_directions"):
            if name in holder.attributes:
                given = holder.attributes[name].as_ints()
                holder.attributes[name] = ir.AttrInt64s(name, [*given, 0])
        return self._stack(holder, graph, row)

    def _stack(self, holder: ir.Node, graph: ir.Graph, row: ir.Value) -> ir.Value:
        """By an output of a Loop or Scan that stacks what its runs give."""
        graph.outputs.append(row)
        rows = self._new_output(holder, row)
        rows.shape = ir.Shape([None, None])
        joined = self._row(rows)
        insert_after(holder, joined)
        return joined.outputs[0]

    def _new_output(self, holder: ir.Node, like: ir.Value) -> ir.Value:
        """One output more, at the end."""
        holder.resize_outputs(len(holder.outputs) + 1)
        added = holder.outputs[-1]
        added.name, added.type, added.shape = self._names.unique(f"{like.name}_out"), like.type, like.shape
        return added

    def _inserted_output(self, holder: ir.Node, index: int) -> ir.Value:
        """One output more, before the output ``index``; the later ones move on, with names and readers."""
        holder.resize_outputs(len(holder.outputs) + 1)
        for old, new in reversed(list(zip(holder.outputs[index:], holder.outputs[index + 1 :], strict=False))):
            new.name, new.type, new.shape = self._names.unique(f"{old.name}_moved"), old.type, old.shape
            replace_uses(old, new, self._names)
            if new.name != old.name and not new.is_graph_output():
                old.name, new.name = new.name, old.name
        freed = holder.outputs[index]
        freed.name, freed.shape = self._names.unique(f"{holder.name}_rows"), None
        return freed

    def _empty(self, like: ir.Value) -> ir.Value:
        dtype = like.dtype
        assert dtype is not None
        return self._constant(f"no_{dtype.name.lower()}", np.zeros(0, dtype.numpy()))

    def _constant(self, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
        if name not in self._constants:
            self._constants[name] = add_initializer(self._graph, self._names.unique(name), array)
        return self._constants[name]

    def _like(
        self, row: ir.Value, op_type: str, inputs: list[ir.Value | None], attributes: Mapping[str, int] | None = None
    ) -> ir.Node:
        node = make_node(self._names, op_type, inputs, attributes)
        node.outputs[0].type, node.outputs[0].shape = row.type, row.shape
        return node
