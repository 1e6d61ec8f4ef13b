"""Names that are unique in the whole model, subgraphs and functions included."""

from collections.abc import Iterable

import onnx_ir as ir

from vqonnx.graph import walk


class NameAllocator:
    """Hands out names that no node, value or initializer of a model has; each in amortized constant time.

    It knows the names of the model it was made from and those it gave. Make one per stage, and name what you
    add through it: onnx_ir's own automatic names ("val_3") are unique in one graph only.
    """

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = set(taken)
        self._next: dict[str, int] = {}

    @classmethod
    def of(cls, model: ir.Model) -> "NameAllocator":
        """An allocator that knows every name in ``model``."""
        taken = {node.name for node in walk.nodes(model) if node.name}
        taken.update(value.name for value in walk.values(model) if value.name)
        return cls(taken)

    def unique(self, base: str) -> str:
        """``base`` if it is free, else ``base_1``, ``base_2`` …; the result is taken from now on."""
        name = base
        while name in self._taken:
            count = self._next.get(base, 0) + 1
            self._next[base] = count
            name = f"{base}_{count}"
        self._taken.add(name)
        return name

    def __contains__(self, name: str) -> bool:
        return name in self._taken


def ensure_unique_names(model: ir.Model) -> None:
    """Give each node and each value a name of its own in the whole model, in place.

    Graph inputs, graph outputs and all named values of the main graph keep their names; so does every name
    that occurs once. Only missing names and repeated ones (a subgraph that shadows an outer name, two nodes of
    one name) change. Nodes and values are counted apart, as in ONNX: a node may be called like its output.
    """
    _name_values(model)
    _name_nodes(model)


def _name_values(model: ir.Model) -> None:
    # What callers feed and fetch by name comes first, so that it is never the one renamed.
    ordered = [*model.graph.inputs, *model.graph.outputs, *walk.values(model)]
    allocator = NameAllocator(value.name for value in ordered if value.name)
    seen: set[str] = set()
    done: set[ir.Value] = set()
    for value in ordered:
        if value in done:
            continue
        done.add(value)
        if not value.name or value.name in seen:
            value.name = allocator.unique(value.name or _value_base(value))
        seen.add(value.name)


def _name_nodes(model: ir.Model) -> None:
    ordered = list(walk.nodes(model))
    allocator = NameAllocator(node.name for node in ordered if node.name)
    seen: set[str] = set()
    for node in ordered:
        if not node.name or node.name in seen:
            node.name = allocator.unique(node.name or _node_base(node))
        seen.add(node.name)


def _value_base(value: ir.Value) -> str:
    producer = value.producer()
    return "value" if producer is None else f"{producer.op_type}_output"


def _node_base(node: ir.Node) -> str:
    # The name of what it makes tells a reader more than a number: unnamed exports are common.
    first = next((output.name for output in node.outputs if output.name), None)
    return f"{node.op_type}_{first}" if first else node.op_type
