"""Correct: shift biases so that every channel's mean is what it is in the float model.

Rounding weights and activations moves the mean of a channel, and these shifts add up through the layers (Nagel et
al. 2019, arXiv:1906.04721, section 4.2). Here they are measured and taken out layer after layer, each in the model
whose earlier layers are already corrected, behind the activation that the runtime fuses. The quantized model runs
segment by segment, so that each layer runs twice and no more; what crosses a cut is kept as codes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vqonnx.calibration.feeds import Feed
from vqonnx.calibration.statistics.channel_mean import ChannelMean
from vqonnx.core.params import QuantizedTensor
from vqonnx.core.plan import NodePlan, Plan, Role
from vqonnx.core.qtype import Kind
from vqonnx.core.solution import Solutions
from vqonnx.core.target import Form
from vqonnx.emitters.qdq import KEY
from vqonnx.graph.segments import Segment, segments
from vqonnx.graph.walk import values_by_name
from vqonnx.kernels.bias import shifted_bias
from vqonnx.progress import Progress, silent
from vqonnx.runtime.session import as_fed, open_session, run_session
from vqonnx.stages.emit import emit
from vqonnx.stages.observe import ObserveOptions, observe

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = npt.NDArray[np.generic]
Means = npt.NDArray[np.float64]

_MEMORY = 1 << 30
"""Bytes of tensors between segments; fewer samples are used where more would be needed."""
_FEWEST_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class Layer:
    """A node whose bias can be shifted.

    Attributes:
        bias: Key of the bias.
        result: Name of the float value whose channel means are to be kept: behind the clip, if there is one.
        key: Key of the result's quantized form; None where the layer's output stays float.
        axis: Channel axis of the result.
    """

    bias: str
    result: str
    key: str | None
    axis: int


def correct(
    model: ir.Model,
    plan: Plan,
    solutions: Solutions,
    feeds: Sequence[Feed],
    *,
    threads: int | None = None,
    progress: Progress = silent,
) -> Solutions:
    """The solutions with corrected biases.

    Args:
        model: The prepared float model.
        plan: Its plan.
        solutions: Its numbers.
        feeds: Calibration samples; fewer are used where the tensors between two layers would not fit in memory.
        threads: Threads of the sessions.
        progress: Told of each finished layer.
    """
    layers = correctable(model, plan)
    if not layers:
        return solutions
    # Whatever form will be written: in this one every bias is codes that can be fed, and the kernels are the same.
    quantized = emit(model, replace(plan.on_cpu(), form=Form.QDQ), solutions)
    results = _results(quantized, layers)
    cut = segments(quantized.graph, [[result] for result in results], is_activation_dequantizer)
    feeds = feeds[: _affordable(quantized, cut, results, solutions, feeds)]
    wanted = {layer.result: ChannelMean(axis=layer.axis) for layer in layers}
    means = observe(model, wanted, feeds, ObserveOptions()).tensors
    run = _Run(quantized, cut, feeds, threads)
    constants = dict(solutions.constants)
    for done, segment in enumerate(cut, start=1):
        layer = results[segment.results[0]]
        target = means[layer.result]
        assert isinstance(target, ChannelMean)
        constants[layer.bias] = run.corrected(segment, layer, solutions, target.means)
        progress("correct biases", done, len(cut))
    return replace(solutions, constants=constants)


def _affordable(
    quantized: ir.Model,
    cut: Sequence[Segment],
    results: Mapping[ir.Value, Layer],
    solutions: Solutions,
    feeds: Sequence[Feed],
) -> int:
    """How many samples fit in memory, by the tensors of the first one."""
    trial = _Run(quantized, cut, feeds[:1], None)
    peak = 1
    for segment in cut:
        layer = results[segment.results[0]]
        trial.advance(segment, layer, solutions.constants[layer.bias].codes)
        peak = max(peak, trial.nbytes)
    return max(_FEWEST_SAMPLES, min(len(feeds), _MEMORY // peak))


def correctable(model: ir.Model, plan: Plan) -> list[Layer]:
    """The planned layers of the main graph with a float32 bias of their own, in graph order."""
    return layers_of(model, plan, model.graph)


def layers_of(model: ir.Model, plan: Plan, among: Iterable[ir.Node]) -> list[Layer]:
    """Those of the nodes ``among`` that are planned and have a float32 bias of their own, in the plan's order."""
    nodes, values = {node.name: node for node in among}, values_by_name(model)
    readers: dict[str, int] = {}
    for node in plan.nodes.values():
        for key in node.inputs:
            if key is not None:
                readers[key] = readers.get(key, 0) + 1
    found = []
    for node in plan.nodes.values():
        if node.node not in nodes:
            continue
        bias = next((k for k in node.inputs if k is not None and plan.tensors[k].role is Role.BIAS), None)
        if bias is not None and readers[bias] == 1 and values[plan.tensors[bias].tensor].dtype == ir.DataType.FLOAT:
            found.append(_layer(nodes[node.node], node, bias, plan))
    return found


def _layer(node: ir.Node, planned: NodePlan, bias: str, plan: Plan) -> Layer:
    output, key = node.outputs[0], planned.outputs[0]
    reader = next((user for user, _ in output.uses()), None)
    clip = plan.nodes.get(reader.name or "") if reader is not None and key is None else None
    if reader is not None and clip is not None and clip.kernel.is_activation:
        output, key = reader.outputs[0], clip.outputs[0]
    return Layer(bias, output.name or "", key, 1 if node.op_type in ("Conv", "ConvTranspose") else -1)


def _results(quantized: ir.Model, layers: Iterable[Layer]) -> dict[ir.Value, Layer]:
    """The layer of each value of the quantized model that holds a result: its codes, or the float output."""
    values = values_by_name(quantized)
    codes: dict[str, ir.Value] = {}
    for value in values.values():
        maker = value.producer()
        if KEY in value.meta and maker is not None:
            source = maker.inputs[0] if is_activation_dequantizer(maker) else value
            codes[value.meta[KEY]] = value if source is None else source
    return {values[layer.result] if layer.key is None else codes[layer.key]: layer for layer in layers}


def is_activation_dequantizer(node: ir.Node) -> bool:
    """Whether a node of an emitted model gives the dequantized form of an activation."""
    return KEY in node.outputs[0].meta and node.op_type.endswith("DequantizeLinear")


class _Run:
    """The segments of a quantized model, run one after the other, and the values that cross the cuts."""

    def __init__(self, model: ir.Model, cut: Sequence[Segment], feeds: Sequence[Feed], threads: int | None) -> None:
        self._model, self._samples, self._threads = model, len(feeds), threads
        self._last_reader = {value: segment for segment in cut for value in segment.inputs}
        self._codes = {value.meta[KEY]: value for value in model.graph.initializers.values() if KEY in value.meta}
        self._known: dict[ir.Value, list[Array]] = {
            value: [feed[value.name or ""] for feed in feeds] for value in self._last_reader if value.is_graph_input()
        }

    @property
    def nbytes(self) -> int:
        """Bytes of the values that wait for later segments."""
        return sum(array.nbytes for column in self._known.values() for array in column)

    def corrected(self, segment: Segment, layer: Layer, solutions: Solutions, wanted: Means) -> QuantizedTensor:
        """The layer's bias, shifted by what the channel means of its result lack."""
        session = self._session(segment, layer)
        bias = solutions.constants[layer.bias]
        plain = self._outputs(session, segment, bias.codes)
        shift = wanted - _means(plain[0], layer, solutions)
        shifted = shifted_bias(bias, shift)
        self._keep(segment, self._outputs(session, segment, shifted.codes))
        return shifted

    def advance(self, segment: Segment, layer: Layer, bias: Array) -> None:
        """Run a segment with these codes of its bias and keep what later ones read."""
        self._keep(segment, self._outputs(self._session(segment, layer), segment, bias))

    def _session(self, segment: Segment, layer: Layer) -> "InferenceSession":
        """A session of the segment; its last input is the bias."""
        return open_session(segment.model(self._model, [self._codes[layer.bias]]), threads=self._threads)

    def _outputs(self, session: "InferenceSession", segment: Segment, bias: Array) -> list[list[Array]]:
        """A column of samples for each output."""
        inputs = [value.name or "" for value in segment.inputs]
        fed = {session.get_inputs()[-1].name: as_fed(bias)}
        rows = [
            run_session(session, None, dict(zip(inputs, row, strict=True)) | fed)
            for row in zip(*(self._known[value] for value in segment.inputs), strict=True)
        ]
        return [list(column) for column in zip(*rows, strict=True)]

    def _keep(self, segment: Segment, columns: Sequence[list[Array]]) -> None:
        self._known.update(zip(segment.outputs, columns, strict=True))
        for value in {*segment.inputs, *segment.outputs}:
            if self._last_reader.get(value) in (segment, None):
                del self._known[value]


def _means(column: Sequence[Array], layer: Layer, solutions: Solutions) -> Means:
    """Mean of each channel of a result over all samples, float64 [C]."""
    empty = ChannelMean(axis=layer.axis)
    total = empty
    for array in column:
        total = total.merge(empty.of(array))
    params = None if layer.key is None else solutions.params(layer.key)
    if params is None or params.spec.qtype.kind is not Kind.INTEGER:
        return total.means  # of the dequantized values themselves
    return (total.means - float(params.zero_point)) * float(params.scale)
