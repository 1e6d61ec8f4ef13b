"""The steps of a walk over the inputs of layers: which of them can be walked, and where the model is cut."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from vqonnx.calibration.feeds import Feed
from vqonnx.calibration.grouping import declared_bytes, grouped
from vqonnx.calibration.model import observable_values, unobservable
from vqonnx.calibration.moments import batch_rows
from vqonnx.graph.segments import Segment, constant_nodes, segments


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerInput:
    """An activation x that layers y = x W read.

    Attributes:
        value: Its name.
        features: K.
        axis: Axis of the K features: -1 for a MatMul, 1 for a Conv, 0 for a Gemm with transA.
        nodes: Names of the nodes whose weights are settled once the moments of this input are known. A weight that
            several inputs are multiplied by is settled by the last of them that the solver waits for.
    """

    value: str
    features: int
    axis: int = -1
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """A piece of the model that runs over all samples at a time.

    Attributes:
        segment: The piece.
        inputs: The layers' inputs that it makes.
    """

    segment: Segment
    inputs: tuple[LayerInput, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What may be in memory at a time when inputs are measured together.

    Attributes:
        nbytes: Bytes of weights, second moments and activations.
        sums: Second moments of each input: 2 with held-back samples apart.
        runs: Samples whose activations are in memory at a time.
    """

    nbytes: int
    sums: int
    runs: int


def unwalkable(model: ir.Model, names: Collection[str]) -> dict[str, str]:
    """Why the moments of some of these values cannot be had ("it is a constant"), by name; empty if all can be."""
    known, fixed = observable_values(model), constant_nodes(model.graph)
    constant = {name for name in names if name in known and known[name].producer() in fixed}
    facts = unobservable(model, names) | dict.fromkeys(constant, "is a constant")
    return {name: f"it {fact}" for name, fact in facts.items()}


def planned_steps(model: ir.Model, inputs: Sequence[LayerInput], feed: Feed, budget: Budget | None) -> list[Step]:
    """The steps in graph order; together they make all ``inputs``, each once.

    Args:
        model: The model.
        inputs: Inputs that can be walked.
        feed: A sample, for the sizes of activations.
        budget: What consecutive inputs may be measured in one step; None: every value has a step of its own.
    """
    by_value: dict[ir.Value, list[LayerInput]] = {}
    known = observable_values(model)
    for one in inputs:
        by_value.setdefault(known[one.value], []).append(one)
    order = {value: place for place, value in enumerate(known.values())}
    values = sorted(by_value, key=order.__getitem__)
    fixed = constant_nodes(model.graph)

    def is_free(node: ir.Node) -> bool:
        return node in fixed or not all(_can_wait(value) for value in node.outputs)

    cut = segments(model.graph, [[value] for value in values], is_free)
    if budget is not None:
        alone = {value.name or "": Step(part, tuple(by_value[value])) for value, part in zip(values, cut, strict=True)}
        groups = grouped(_costs(model, alone, feed, budget), budget.nbytes)
        cut = segments(model.graph, [[known[name] for name in group] for group in groups], is_free)
    return [Step(part, tuple(one for value in part.results for one in by_value[value])) for part in cut]


def _costs(model: ir.Model, steps: Mapping[str, Step], feed: Feed, budget: Budget) -> dict[str, int]:
    """Bytes that each value adds to a step; as much as there is where its own size is not known."""
    sizes = declared_bytes(model, list(steps), feed)
    return {name: budget.nbytes if size is None else _cost(steps[name], size, budget) for name, size in sizes.items()}


def _cost(step: Step, activation: int, budget: Budget) -> int:
    weights = sum(value.const_value.nbytes for value in step.segment.constants if value.const_value is not None)
    sums = sum(8 * one.features**2 + 4 * one.features * batch_rows(one.features) for one in step.inputs)
    return weights + budget.sums * sums + budget.runs * activation


def _can_wait(value: ir.Value) -> bool:
    """Whether the value can lie in a file; of an unknown type it is taken for a plain tensor."""
    if value.type is None:
        return True
    if not isinstance(value.type, ir.TensorType) or value.dtype in (None, ir.DataType.STRING, ir.DataType.UNDEFINED):
        return False
    return bool(np.dtype(value.dtype.numpy()).isbuiltin == 1)
