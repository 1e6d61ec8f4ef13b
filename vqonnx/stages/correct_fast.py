"""The fast bias correction: from the means of the inputs alone, without running the quantized model.

Rounding a weight W to W' shifts the mean of channel o by sum_i (W - W')[o, i] E[x_i] (Nagel et al. 2019,
arXiv:1906.04721, section 4.2). Padding counts as if it were not there, and what activations lose is not seen; the
empirical correction of ``correct.py`` sees both, and takes longer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from vqonnx.calibration.feeds import Feed
from vqonnx.calibration.statistics.channel_mean import ChannelMean
from vqonnx.core.params import QuantizedTensor
from vqonnx.core.plan import NodePlan, Plan, Role
from vqonnx.core.solution import Solutions
from vqonnx.emitters.unscaled import form_without_scale
from vqonnx.graph.facts import int_attribute
from vqonnx.graph.walk import constant, nodes_by_name, values_by_name
from vqonnx.kernels.affine import dequantize
from vqonnx.kernels.bias import mean_shift, shifted_bias
from vqonnx.stages.correct import Layer, correctable
from vqonnx.stages.correct_bodies import Watched, channel_means, correctable_inside
from vqonnx.stages.observe import ObserveOptions, observe


def correct_fast(
    model: ir.Model, plan: Plan, solutions: Solutions, feeds: Sequence[Feed], *, bodies_only: bool = False
) -> Solutions:
    """The solutions with biases shifted by what weight rounding moves their channels' means.

    Args:
        model: The prepared float model.
        plan: Its plan.
        solutions: Its numbers.
        feeds: Calibration samples.
        bodies_only: Whether biases of the main graph stay.
    """
    nodes, values = nodes_by_name(model), values_by_name(model)
    places = [] if bodies_only else correctable(model, plan), correctable_inside(model, plan)
    main, inside = ([(layer, *_source(nodes, plan, layer)) for layer in layers] for layers in places)
    errors = {
        layer.bias: _weight_error(values, plan, solutions, planned, nodes[planned.node])
        for layer, planned, _ in (*main, *inside)
    }
    wanted = {value: ChannelMean(axis=layer.axis) for layer, _, value in main}
    observed = observe(model, wanted, feeds, ObserveOptions()).tensors if wanted else {}
    means = {layer.bias: one.means for layer, _, value in main if isinstance(one := observed[value], ChannelMean)}
    watched = {
        layer.bias: _watched_input(value, layer, errors[layer.bias], nodes[planned.node])
        for layer, planned, value in inside
    }
    means |= channel_means(model, watched, feeds) if watched else {}
    constants = dict(solutions.constants)
    for bias, mean in means.items():
        constants[bias] = shifted_bias(constants[bias], mean_shift(errors[bias], mean))
    return replace(solutions, constants=constants)


def _weight_error(
    values: Mapping[str, ir.Value], plan: Plan, solutions: Solutions, planned: NodePlan, node: ir.Node
) -> npt.NDArray[np.float64]:
    """What rounding took from the weight of a node, [outputs, inputs of a group, …]."""
    key = next(k for k in planned.inputs if k is not None and plan.tensors[k].role is Role.WEIGHT)
    weight = constant(values[plan.tensors[key].tensor])
    assert weight is not None
    return _output_first(weight.astype(np.float64) - _as_read(solutions.constants[key]), node)


def _watched_input(name: str, layer: Layer, error: npt.NDArray[np.float64], node: ir.Node) -> Watched:
    """The input of a node in a body; that of a convolution has as many axes as the weight."""
    return Watched(name, error.shape[1] * int_attribute(node, "group", 1), error.ndim if layer.axis >= 0 else None)


def _as_read(quantized: QuantizedTensor) -> npt.NDArray[np.floating]:
    """What a node reads of a constant: its codes times their scale, or what a format without scales makes of it."""
    form = form_without_scale(quantized.params.spec)
    if form is None:
        return dequantize(quantized.codes, quantized.params)
    return form.rounded(quantized.codes.astype(np.float32))


def _source(nodes: dict[str, ir.Node], plan: Plan, layer: Layer) -> tuple[NodePlan, str]:
    """The node with the layer's weight, and the name of its input."""
    scale_of = plan.tensors[layer.bias].scale_of
    assert scale_of is not None
    planned = next(node for node in plan.nodes.values() if node.inputs[:2] == scale_of)
    return planned, nodes[planned.node].inputs[0].name or ""  # type: ignore[union-attr]  # it has an input


def _output_first(error: npt.NDArray[np.float64], node: ir.Node) -> npt.NDArray[np.float64]:
    """A weight of Conv, Gemm or MatMul as [outputs, inputs of a group, …]."""
    transposed = node.op_type == "Conv" or int_attribute(node, "transB", 0) == 1
    return error if transposed else error.T
