"""Which tensors are fetched together, so that a run's outputs fit a memory budget."""

import math
from collections.abc import Mapping, Sequence

import onnx_ir as ir

from vqonnx.calibration.feeds import Feed
from vqonnx.calibration.model import element_count, observable_values
from vqonnx.calibration.trips import opened
from vqonnx.runtime.blocked import outputs_of
from vqonnx.runtime.session import open_session

_BYTES_OF_UNKNOWN = 4  # float32, the type of nearly all activations


def tensor_bytes(model: ir.Model, names: Sequence[str], feed: Feed) -> dict[str, int]:
    """Bytes of each tensor in a run of ``feed``; the model runs once if its shapes do not tell."""
    values = observable_values(model, bodies=True)
    sizes = declared_bytes(model, names, feed)
    unknown = [name for name, size in sizes.items() if size is None]
    if unknown:
        counts = opened(model, unknown, lambda exposed: outputs_of(open_session(exposed)), sizes=True).run(feed)
        sizes |= {
            n: math.ceil(int(count) * _element_bytes(values[n]))
            for n, count in zip(unknown, counts.values(), strict=True)
        }
    return {name: size or 0 for name, size in sizes.items()}


def declared_bytes(model: ir.Model, names: Sequence[str], feed: Feed) -> dict[str, int | None]:
    """Bytes of each tensor in a run of ``feed``, by the shapes that the model declares; None where they do not tell.

    Of a value in a body they do not: it may be run any number of times.
    """
    values = observable_values(model, bodies=True)
    axes = _bound_axes(model, feed)
    main = {name: value for name, value in values.items() if value.graph is model.graph}
    counts = {name: element_count(main[name], axes) if name in main else None for name in names}
    return {n: None if count is None else math.ceil(count * _element_bytes(values[n])) for n, count in counts.items()}


def grouped(sizes: Mapping[str, int], budget: int) -> list[list[str]]:
    """Names in order, in as few consecutive groups as fit ``budget`` bytes; what exceeds it alone is alone."""
    groups: list[list[str]] = []
    used = 0
    for name, size in sizes.items():
        if not groups or used + size > budget:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    return groups


def _bound_axes(model: ir.Model, feed: Feed) -> dict[str, int]:
    """Lengths of the named axes of the graph's inputs in ``feed``."""
    axes: dict[str, int] = {}
    for value in model.graph.inputs:
        array = feed.get(value.name or "")
        if value.shape is None or array is None:
            continue
        for size, length in zip(value.shape, array.shape, strict=True):
            if isinstance(size, ir.SymbolicDim) and size.value is not None:
                axes[str(size.value)] = length
    return axes


def _element_bytes(value: ir.Value) -> float:
    return _BYTES_OF_UNKNOWN if value.dtype is None else value.dtype.itemsize
