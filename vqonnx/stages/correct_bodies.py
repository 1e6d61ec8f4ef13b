"""Bias correction inside bodies of If, Loop and Scan: the mean of a channel is that of all runs of its body.

Bodies cannot be cut into segments, so the whole quantized model runs once for each layer, in graph order. What a Loop
or Scan hands on shifts the inputs of later trips, which one measurement does not see, so their layers are corrected
twice: two layers with 4-bit weights that feed each other for 30 trips go from 0.085 and 0.053 to 0.076 and 0.013 off,
and to 0.027 and 0.016 with the second time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vqonnx.calibration.feeds import Feed
from vqonnx.calibration.statistics.channel_mean import ChannelMean
from vqonnx.core.plan import Plan
from vqonnx.core.solution import Solutions
from vqonnx.core.target import Form
from vqonnx.emitters.qdq import KEY
from vqonnx.graph.edit import add_initializer, make_node
from vqonnx.graph.io import load
from vqonnx.graph.lift import holders, lift
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import control_flow_nodes, values_by_name
from vqonnx.kernels.bias import shifted_bias
from vqonnx.progress import Progress, silent
from vqonnx.stages.correct import Layer, is_activation_dequantizer, layers_of
from vqonnx.stages.emit import emit
from vqonnx.stages.observe import ObserveOptions, observe

Means = npt.NDArray[np.float64]

_AXES_ARE_INPUTS = 13
"""The opset from which ReduceSum is told its axes by an input."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A value of a body whose channel means are wanted.

    Attributes:
        value: Its name.
        channels: Number of its channels.
        rank: Number of its axes where the second one holds the channels; None where the last one does.
    """

    value: str
    channels: int
    rank: int | None


def correct_bodies(
    model: ir.Model, plan: Plan, solutions: Solutions, feeds: Sequence[Feed], *, progress: Progress = silent
) -> Solutions:
    """The solutions with corrected biases in bodies; a layer that no sample runs, or only bodies read, keeps its own.

    Args:
        model: The prepared float model.
        plan: Its plan.
        solutions: Its numbers.
        feeds: Calibration samples.
        progress: Told of each finished layer.
    """
    layers = correctable_inside(model, plan)
    if not layers:
        return solutions
    values, constants = values_by_name(model), dict(solutions.constants)
    watched = {one.bias: _watched(one, values[one.result], constants[one.bias].codes.size) for one in layers}
    wanted = channel_means(model, watched, feeds)
    rounds = [*layers, *_repeated(model, layers)]
    for done, layer in enumerate(rounds, start=1):
        quantized = emit(model, replace(plan.on_cpu(), form=Form.QDQ), replace(solutions, constants=constants))
        result = _result(quantized, layer)
        there = {} if result is None else {layer.bias: replace(watched[layer.bias], value=result)}
        found = channel_means(quantized, there, feeds) if there else {}
        if layer.bias in wanted and layer.bias in found:
            shift = wanted[layer.bias] - found[layer.bias]
            constants[layer.bias] = shifted_bias(constants[layer.bias], shift)
        progress("correct biases in bodies", done, len(rounds))
    return replace(solutions, constants=constants)


def correctable_inside(model: ir.Model, plan: Plan) -> list[Layer]:
    """The planned layers of bodies with a float32 bias of their own, in graph order."""
    if (model.graph.opset_imports.get("") or 0) < _AXES_ARE_INPUTS:
        return []
    inside = [node for node in control_flow_nodes(model.graph) if node.graph is not model.graph]
    values = values_by_name(model)
    layers = layers_of(model, plan, inside)
    return [layer for layer in layers if layer.axis < 0 or values[layer.result].shape is not None]


def _watched(layer: Layer, result: ir.Value, channels: int) -> Watched:
    """The layer's result; ``correctable_inside`` knows its rank where its channels come second."""
    rank = len(result.shape) if layer.axis >= 0 and result.shape is not None else None
    return Watched(layer.result, channels, rank)


def _repeated(model: ir.Model, layers: Sequence[Layer]) -> list[Layer]:
    """The layers in bodies that run again and again, at any depth."""
    held, values = holders(model), values_by_name(model)

    def repeats(graph: ir.Graph | ir.Function | None) -> bool:
        holder = held.get(graph) if isinstance(graph, ir.Graph) else None
        return holder is not None and (holder.op_type in ("Loop", "Scan") or repeats(holder.graph))

    return [layer for layer in layers if repeats(values[layer.result].graph)]


def channel_means(model: ir.Model, watched: Mapping[str, Watched], feeds: Sequence[Feed]) -> dict[str, Means]:
    """Mean of each channel, float64 [C], over all runs of the bodies.

    Left out are values that no run computes, and those with elements that are not finite.

    Args:
        model: A model; it is not changed.
        watched: Values of its bodies, by any key.
        feeds: Samples.
    """
    copy = load(model)
    names, values = NameAllocator.of(copy), values_by_name(copy)
    rows = {key: _sums(copy, names, values[one.value], one) for key, one in watched.items()}
    vectors = {key: row.name or "" for key, row in rows.items()}
    lift(copy, rows.values(), stacked=True)  # sums and a count are of one size in each trip
    names, values, tables = NameAllocator.of(copy), values_by_name(copy), dict[str, str]()
    for key, vector in vectors.items():
        shape = _integers(copy, names, -1, watched[key].channels + 1)
        table = make_node(names, "Reshape", [values[vector], shape], outputs=[f"{vector}_by_run"])
        table.outputs[0].type = values[vector].type
        copy.graph.append(table)
        tables[key] = table.outputs[0].name or ""
    wanted = {table: ChannelMean(axis=-1) for table in tables.values()}
    sums = observe(copy, wanted, feeds, ObserveOptions(nonfinite="ignore")).tensors
    means = {}
    for key, name in tables.items():
        found = sums[name]
        assert isinstance(found, ChannelMean)
        if found.totals.size and found.totals[-1] and not found.dropped:
            means[key] = found.totals[:-1] / found.totals[-1]
    return means


def _sums(model: ir.Model, names: NameAllocator, value: ir.Value, watched: Watched) -> ir.Value:
    """Behind the value, in its graph: the sum of each channel and the number of elements that it has, [C + 1]."""
    source, axes = value, [0]
    nodes: list[ir.Node] = []

    def add(op_type: str, inputs: list[ir.Value | None], attributes: Mapping[str, int] | None = None) -> ir.Value:
        nodes.append(make_node(names, op_type, inputs, attributes))
        return nodes[-1].outputs[0]

    if watched.rank is None:
        source = add("Reshape", [value, _integers(model, names, -1, watched.channels)])
    else:
        axes += range(2, watched.rank)
    sums = add("ReduceSum", [source, _integers(model, names, *axes)], {"keepdims": 0})
    size = add("Reshape", [add("Size", [value]), _integers(model, names, 1)])
    count = add("Div", [size, _integers(model, names, watched.channels)])
    row = add("Concat", [sums, add("Cast", [count], {"to": ir.DataType.FLOAT})], {"axis": 0})
    row.type, row.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([watched.channels + 1])
    assert isinstance(value.graph, ir.Graph)
    value.graph.extend(nodes)
    return row


def _integers(model: ir.Model, names: NameAllocator, *numbers: int) -> ir.Value:
    return add_initializer(model.graph, names.unique("integers"), np.array(numbers, np.int64))


def _result(quantized: ir.Model, layer: Layer) -> str | None:
    """Name of the layer's result in the quantized model, dequantized if it is quantized.

    None where only bodies inside its own read it: they run as often as they do.
    """
    if layer.key is None:
        return layer.result
    found = (value for value in values_by_name(quantized).values() if value.meta.get(KEY) == layer.key)
    return next((value.name for value in found if _is_beside_its_source(value)), None)


def _is_beside_its_source(value: ir.Value) -> bool:
    """Whether a dequantized value is in the graph of what is quantized; bodies inside have DequantizeLinears too."""
    maker = value.producer()
    if maker is None or not is_activation_dequantizer(maker):
        return True
    codes = maker.inputs[0]
    return codes is not None and codes.graph is value.graph
