"""Numbers in place of a model's dynamic dimensions, for devices that plan their memory ahead."""

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from vqonnx.errors import ModelError, OptionError, nearest
from vqonnx.graph.inference import infer_missing
from vqonnx.graph.walk import graph_values, nested_graphs
from vqonnx.transforms.shapes import infer_shapes

Shape = Sequence[int]


def fix_shapes(model: ir.Model, sizes: Mapping[str, int | Shape]) -> int:
    """Give dynamic dimensions a number; return how many dimensions of inputs became fixed.

    A named dimension gets its number wherever the name stands. The shapes of all that nodes compute are then inferred
    anew, and held against those that were stated.

    Args:
        model: Any model, edited in place; it is spoiled if an error is raised.
        sizes: For the name of a dimension its size, for the name of an input or output its whole shape.

    Raises:
        OptionError: A name is unknown; a shape has another rank, or contradicts a fixed dimension or another size.
        ModelError: A node cannot take its inputs' sizes, or computes another shape than is stated or asked for.
    """
    graph = model.graph
    wanted = _wanted_shapes(graph, sizes)
    symbols = _symbols(graph, sizes, wanted)
    before = _dynamic_dimensions(graph)
    for value, shape in wanted.items():
        value.shape = ir.Shape(shape)
    for one in nested_graphs(graph):
        for value in graph_values(one):
            if value.shape is not None:
                value.shape = _with_numbers(value.shape, symbols)
    _infer_anew(model)
    return before - _dynamic_dimensions(graph)


def _wanted_shapes(graph: ir.Graph, sizes: Mapping[str, int | Shape]) -> dict[ir.Value, Shape]:
    border = {value.name: value for value in (*graph.inputs, *graph.outputs)}
    wanted = {}
    for name, size in sizes.items():
        if isinstance(size, int):
            _check_size(name, size)
            continue
        value = border.get(name)
        if value is None:
            names = [str(one) for one in border]
            raise OptionError(
                f"{name!r} is no input or output of the model{nearest(name, names)}. Give a shape for one of "
                f"{', '.join(names)}, or a number for a named dimension.",
                option=name,
            )
        for one in size:
            _check_size(name, one)
        if value.shape is not None:
            _check_fits(name, value.shape, size)
        wanted[value] = size
    return wanted


def _check_size(name: str, size: int) -> None:
    if size < 0:
        raise OptionError(f"{name!r} cannot get the size {size}: sizes are 0 or more. Leave it out.", option=name)


def _check_fits(name: str, stated: ir.Shape, size: Shape) -> None:
    fixed = zip(stated, size, strict=False)
    if len(stated) != len(size) or any(isinstance(old, int) and old != new for old, new in fixed):
        raise OptionError(
            f"{name!r} cannot get the shape {list(size)}: the model states {stated}. Change dynamic dimensions only.",
            option=name,
        )


def _symbols(graph: ir.Graph, sizes: Mapping[str, int | Shape], wanted: Mapping[ir.Value, Shape]) -> dict[str, int]:
    """The number of each named dimension, by name alone or by its place in a shape."""
    symbols = {name: size for name, size in sizes.items() if isinstance(size, int)}
    known = {name for value in (*graph.inputs, *graph.outputs) for name in _names(value.shape)}
    for name in symbols:
        if name not in known:
            raise OptionError(
                f"no input or output has a dimension {name!r}{nearest(name, known)}. The named dimensions are "
                f"{', '.join(sorted(known)) or 'none'}.",
                option=name,
            )
    for value, shape in wanted.items():
        for name, size in zip(_names(value.shape, every=True), shape, strict=False):
            if name and symbols.setdefault(name, size) != size:
                raise OptionError(
                    f"dimension {name!r} cannot be {symbols[name]} and, in {value.name!r}, {size}. Give it one size.",
                    option=value.name,
                )
    return symbols


def _names(shape: ir.Shape | None, *, every: bool = False) -> list[str]:
    """Names of the dimensions that have one; with ``every``, one for each dimension, ``""`` where it has none."""
    names = ["" if isinstance(size, int) else size.value or "" for size in shape or ()]
    return names if every else [name for name in names if name]


def _with_numbers(shape: ir.Shape, symbols: Mapping[str, int]) -> ir.Shape:
    return ir.Shape([size if isinstance(size, int) else symbols.get(size.value or "", size) for size in shape])


def _dynamic_dimensions(graph: ir.Graph) -> int:
    shapes = [value.shape for value in graph.inputs if value.shape is not None]
    return sum(not isinstance(size, int) for shape in shapes for size in shape)


def _infer_anew(model: ir.Model) -> None:
    """Infer the shapes of all that nodes compute, and keep of the stated ones what inference leaves open.

    Raises:
        ModelError: A stated size is not the one inferred.
    """
    computed = [output for graph in nested_graphs(model.graph) for node in graph for output in node.outputs]
    stated = {value: value.shape for value in computed if value.shape is not None}
    for value in stated:
        value.shape = None
    infer_missing(model, strict=True)
    infer_shapes(model)
    for value, old in stated.items():
        value.shape = old if value.shape is None else _merged(value, old)


def _merged(value: ir.Value, stated: ir.Shape) -> ir.Shape:
    inferred = value.shape
    assert inferred is not None
    pairs = list(zip(inferred, stated, strict=False))
    if len(inferred) != len(stated) or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in pairs):
        raise ModelError(
            f"{value.name!r} is stated to be {stated}, but with these sizes the model computes {inferred}. "
            "Fix the sizes that it was exported with."
        )
    return ir.Shape([stated if isinstance(stated, int) else new for new, stated in pairs])
