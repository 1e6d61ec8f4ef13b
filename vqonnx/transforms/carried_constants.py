"""Constants that a Loop only hands from trip to trip, read from outside instead.

Exporters of recurrent layers make the weights of a cell states of its Loop, where nobody sees that they are constants.
"""

from collections.abc import Sequence

import onnx_ir as ir

from vqonnx.graph.edit import insert_before, make_node, remove_node, replace_uses
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import constant_tensor, control_flow_graphs, subgraphs

_TRIP_AND_CONDITION = 2


def free_carried_constants(model: ir.Model) -> int:
    """Take constants that every trip hands on unchanged out of the states of Loops; return how many.

    The body reads them from outside; what the Loop gave for such a state is the constant (ONNX Loop-1).
    """
    names = NameAllocator.of(model)
    count = 0
    for graph in control_flow_graphs(
        model.graph
    ):  # a body after what holds it: its Loops may then start with constants
        for node in [node for node in graph if node.op_type == "Loop" and not node.domain]:
            states = _constant_states(node)
            if states:
                _free(node, states, names)
            count += len(states)
    return count


def _constant_states(loop: ir.Node) -> list[int]:
    (body,) = subgraphs(loop)
    found = []
    for state, start in enumerate(loop.inputs[_TRIP_AND_CONDITION:]):
        carried, others = body.inputs[_TRIP_AND_CONDITION + state], [*body.outputs]
        handed_on = others.pop(1 + state)
        if constant_tensor(start) is not None and _source(handed_on) is carried and carried not in others:
            found.append(state)
    return found


def _source(value: ir.Value) -> ir.Value | None:
    """What a value is, behind Identity."""
    node: ir.Node | None = value.producer()
    found: ir.Value | None = value
    while node is not None and node.op_type == "Identity":
        found = node.inputs[0]
        node = None if found is None else found.producer()
    return found


def _free(loop: ir.Node, states: Sequence[int], names: NameAllocator) -> None:
    (body,) = subgraphs(loop)
    for state in states:
        start, carried = loop.inputs[_TRIP_AND_CONDITION + state], body.inputs[_TRIP_AND_CONDITION + state]
        assert start is not None
        for reader, index in carried.uses():
            reader.replace_input_with(index, start)
        replace_uses(loop.outputs[state], start, names)
    for state in reversed(states):
        del body.inputs[_TRIP_AND_CONDITION + state], body.outputs[1 + state]
    _replace(loop, states, names)


def _replace(loop: ir.Node, gone: Sequence[int], names: NameAllocator) -> None:
    """Put a Loop without these states in the place of one that has them; what it gives keeps its names."""
    inputs = [value for index, value in enumerate(loop.inputs) if index - _TRIP_AND_CONDITION not in gone]
    kept = [value for index, value in enumerate(loop.outputs) if index not in gone]
    new = make_node(names, "Loop", inputs, outputs=[value.name or "" for value in kept])
    new.attributes.update(loop.attributes)
    loop.attributes.clear()  # the body is the new one's
    insert_before(loop, new)
    for old, output in zip(kept, new.outputs, strict=True):
        output.type, output.shape = old.type, old.shape
        replace_uses(old, output, names)
        if not output.is_graph_output():
            old.name, output.name = output.name, old.name
    remove_node(loop)
    new.name = loop.name
