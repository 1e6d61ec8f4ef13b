"""The order of axes at the model's border: channels last outside, first inside, or the other way round."""

from collections.abc import Collection, Sequence

import onnx_ir as ir

from vqonnx.errors import OptionError, nearest
from vqonnx.graph.edit import insert_after, insert_first, make_node, remove_node, replace_uses
from vqonnx.graph.names import NameAllocator

_IMAGE_RANK = 4
_LEAST_RANK = 3


def channels_last_at_border(model: ir.Model, names: Collection[str] | None = None) -> int:
    """Let inputs and outputs of shape [N, C, ...] be fed and fetched as [N, ..., C]; return how many changed.

    A Transpose inside keeps what the model computes; one that was there and undoes the new one goes with it. Names
    stay. An input with a default, and one that is an output as it is, are left.

    Args:
        model: Any model, edited in place.
        names: Inputs and outputs to change, of rank 3 or more; by default all of rank 4.

    Raises:
        OptionError: A name is no input or output, or its rank is unknown or below 3.
    """
    return _move(model, names, to_last=True)


def channels_first_at_border(model: ir.Model, names: Collection[str] | None = None) -> int:
    """The inverse of ``channels_last_at_border``: [N, ..., C] is fed and fetched as [N, C, ...]."""
    return _move(model, names, to_last=False)


def _move(model: ir.Model, names: Collection[str] | None, *, to_last: bool) -> int:
    allocator = NameAllocator.of(model)
    graph = model.graph
    chosen = _chosen(graph, names)
    inputs = [value for value in graph.inputs if value in chosen]
    outputs = [value for value in graph.outputs if value in chosen]
    for value in inputs:
        _turn_input(graph, value, _permutation(value, to_last=to_last), allocator)
    for value in outputs:
        _turn_output(value, _permutation(value, to_last=to_last), allocator)
    return len(inputs) + len(outputs)


def _chosen(graph: ir.Graph, names: Collection[str] | None) -> set[ir.Value]:
    border = {str(value.name): value for value in (*graph.inputs, *graph.outputs)}
    if names is None:
        wanted = [value for value in border.values() if value.shape is not None and len(value.shape) == _IMAGE_RANK]
    else:
        wanted = [_named(border, name) for name in names]
    return {value for value in wanted if not (value.is_initializer() or _passes_through(value))}


def _passes_through(value: ir.Value) -> bool:
    return value.is_graph_input() and value.is_graph_output()


def _named(border: dict[str, ir.Value], name: str) -> ir.Value:
    value = border.get(name)
    if value is None:
        raise OptionError(
            f"{name!r} is no input or output of the model{nearest(name, border)}. Name one of {', '.join(border)}.",
            option=name,
        )
    if value.shape is None or len(value.shape) < _LEAST_RANK:
        rank = "an unknown rank" if value.shape is None else f"rank {len(value.shape)}"
        raise OptionError(
            f"channels move last in [N, C, ...], so {name!r} needs to be of rank >= 3; it has {rank}. Leave it out.",
            option=name,
        )
    return value


def _permutation(value: ir.Value, *, to_last: bool) -> list[int]:
    """The order of the present axes in the new layout."""
    if value.shape is None:  # pragma: no cover - _chosen looked
        raise TypeError(f"the rank of {value.name!r} is not known")
    spatial = range(2, len(value.shape))
    return [0, *spatial, 1] if to_last else [0, len(value.shape) - 1, *range(1, len(value.shape) - 1)]


def _inverse(permutation: Sequence[int]) -> list[int]:
    return sorted(range(len(permutation)), key=permutation.__getitem__)


def _permuted(shape: ir.Shape, permutation: Sequence[int]) -> ir.Shape:
    return ir.Shape([shape[axis] for axis in permutation])


def _turn_input(graph: ir.Graph, value: ir.Value, permutation: list[int], names: NameAllocator) -> None:
    back = make_node(names, "Transpose", [value], {"perm": _inverse(permutation)}, name=f"{value.name}_transpose")
    inside = back.outputs[0]
    inside.type, inside.shape = value.type, value.shape
    if value.shape is not None:
        value.shape = _permuted(value.shape, permutation)
    insert_first(graph, back)
    replace_uses(value, inside, names, keep=(back,))
    for reader in inside.consumers():
        if _transposes(reader, permutation):
            replace_uses(reader.outputs[0], value, names)
            remove_node(reader)
    if not inside.uses():
        remove_node(back)


def _turn_output(value: ir.Value, permutation: list[int], names: NameAllocator) -> None:
    producer = value.producer()
    if producer is None:  # pragma: no cover - _chosen left what passes through
        raise TypeError(f"output {value.name!r} has no producer")
    readers, inside = value.consumers(), value.shape
    source = producer.inputs[0] if producer.inputs else None
    if source is not None and _transposes(producer, _inverse(permutation)):
        new = source
    else:
        turned = make_node(names, "Transpose", [value], {"perm": permutation}, name=f"{value.name}_transpose")
        insert_after(producer, turned)
        new, readers = turned.outputs[0], (turned, *readers)
    value.shape = None if inside is None else _permuted(inside, permutation)  # the output's, for what becomes it
    replace_uses(value, new, names, keep=readers)
    value.shape = inside
    if not readers:
        remove_node(producer)


def _transposes(node: ir.Node, permutation: Sequence[int]) -> bool:
    perm = node.attributes.get("perm")
    plain = node.op_type == "Transpose" and not node.domain
    return plain and perm is not None and not perm.is_ref() and list(perm.as_ints()) == list(permutation)
