"""New nodes in the place of one node of the model, which hands on its name and its output."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from vqonnx.errors import ModelError
from vqonnx.graph.edit import Attribute, add_initializer, insert_before, make_node, remove_node, replace_uses
from vqonnx.graph.names import NameAllocator


class Replacement:
    """Collects the nodes that will stand for ``node``; the model changes when it is finished.

    Args:
        node: The node to be replaced, with one output.
        names: Where new names come from; they start with the node's.
    """

    def __init__(self, node: ir.Node, names: NameAllocator) -> None:
        self.node, self.names = node, names
        self._new: list[ir.Node] = []
        self._heir: ir.Node | None = None

    @property
    def graph(self) -> ir.Graph:
        """The graph that the node is in: the main graph or a body."""
        graph = self.node.graph
        if not isinstance(graph, ir.Graph):
            raise ModelError(f"node {self.node.name!r} is in no graph of the model", node=self.node.name)
        return graph

    def add(
        self,
        op: str,
        inputs: Sequence[ir.Value | None],
        attributes: Mapping[str, Attribute] | None = None,
        *,
        heir: bool = False,
    ) -> ir.Value:
        """Append a node and return its output; the ``heir`` is the one that takes over the name of the node."""
        op_type = op.rpartition("::")[2]
        made = make_node(self.names, op, inputs, attributes, name=f"{self.node.name}_{op_type}")
        self._new.append(made)
        if heir:
            self._heir = made
        return made.outputs[0]

    def append(self, node: ir.Node) -> None:
        """Append a node that was made elsewhere: one with several outputs."""
        self._new.append(node)

    def constant(self, array: np.ndarray, role: str) -> ir.Value:
        """Add a small initializer to the node's graph."""
        return add_initializer(self.graph, self.names.unique(f"{self.node.name}_{role}"), array)

    def finish(self, result: ir.Value) -> None:
        """Put the new nodes into the graph and remove the old one; ``result`` takes over its output's name."""
        node, output = self.node, self.node.outputs[0]
        name = output.name
        result.type, result.shape = output.type, output.shape
        insert_before(node, self._new)
        replace_uses(output, result, self.names)
        remove_node(node)
        result.name = name
        if self._heir is not None:
            self._heir.name = node.name
