"""What a position costs: the share of a tensor's energy that is noise there.

To first order such shares add up from tensor to tensor, whatever their units; so moves of weights, biases and
activations can be compared. A bias's noise counts against the energy of the output that it is added to.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

import numpy as np
import numpy.typing as npt

from vqonnx.core.params import QuantParams
from vqonnx.core.plan import Role, TensorPlan
from vqonnx.core.positions import PositionNode
from vqonnx.kernels.bins import Bins
from vqonnx.kernels.constants import histogram_of
from vqonnx.kernels.positions import mean_square, noise_share, squared_errors
from vqonnx.kernels.scale_grid import at_position
from vqonnx.planning.alignment import Loss

Array = npt.NDArray[np.generic]
Constants = Callable[[str], Array]

_UNIFORM = 4096
"""Points that stand for a tensor of which only the range is known."""


def position_losses(
    nodes: Sequence[PositionNode],
    members: Mapping[str, Sequence[TensorPlan]],
    params: Mapping[str, QuantParams],
    histograms: Mapping[str, Bins],
    constant: Constants,
) -> dict[str, Loss]:
    """What a position costs, by its key; each is computed when it is first asked for.

    Args:
        nodes: Nodes whose biases are among the keys.
        members: The planned tensors of each key.
        params: Their scales and zero points before any move, by the tensors' keys.
        histograms: Of activations, by tensor name; others count as evenly spread over their codes.
        constant: The float array of a planned constant, by key; read when needed and not kept.
    """
    outputs = {node.bias: node.output for node in nodes if node.bias is not None}
    losses: dict[str, Loss] = {}
    for key, tensors in members.items():
        parts = [_constant_loss(one, params[one.key], constant) for one in tensors if one.role is not Role.ACTIVATION]
        if key in outputs:
            energy = partial(_mean_square, members[outputs[key]], params, histograms)
            parts = [_bias_loss(one, params[one.key], constant, energy) for one in tensors]
        losses[key] = _sum(parts + _activation_losses(tensors, params, histograms))
    return losses


def _sum(parts: Sequence[Loss]) -> Loss:
    return cache(lambda position: math.fsum(part(position) for part in parts))


def _activation_losses(
    tensors: Sequence[TensorPlan], params: Mapping[str, QuantParams], histograms: Mapping[str, Bins]
) -> list[Loss]:
    found = [_bins(one, params, histograms) for one in _measured(tensors, histograms)]
    return [partial(noise_share, bins, tensors[0].spec) for bins in found]


def _measured(tensors: Sequence[TensorPlan], histograms: Mapping[str, Bins]) -> list[TensorPlan]:
    """The activations with a histogram; without any the first, as copies of one tensor need count only once."""
    activations = [one for one in tensors if one.role is Role.ACTIVATION]
    return [one for one in activations if one.tensor in histograms] or activations[:1]


def _bins(tensor: TensorPlan, params: Mapping[str, QuantParams], histograms: Mapping[str, Bins]) -> Bins:
    known = histograms.get(tensor.tensor)
    if known is not None:
        return known
    given, spec = params[tensor.key], tensor.spec
    ends = (code - float(given.zero_point) for code in (spec.qmin, spec.qmax))
    low, high = (end * float(given.scale) for end in ends)
    return histogram_of(np.linspace(low, high, _UNIFORM, dtype=np.float32))


def _mean_square(
    tensors: Sequence[TensorPlan], params: Mapping[str, QuantParams], histograms: Mapping[str, Bins]
) -> float:
    squares = [mean_square(_bins(one, params, histograms)) for one in _measured(tensors, histograms)]
    return squares[0] if squares else 0.0


def _constant_loss(tensor: TensorPlan, params: QuantParams, constant: Constants) -> Loss:
    def loss(position: int) -> float:
        values = constant(tensor.key)
        energy = float(np.square(values, dtype=np.float64).sum())
        return _error(values, params, position) / energy if energy else 0.0

    return loss


def _bias_loss(tensor: TensorPlan, params: QuantParams, constant: Constants, energy: Callable[[], float]) -> Loss:
    def loss(position: int) -> float:
        values, mean = constant(tensor.key), energy()
        return _error(values, params, position) / (mean * values.size) if mean else 0.0

    return loss


def _error(values: Array, params: QuantParams, position: int) -> float:
    return float(squared_errors(values, at_position(params, position)).sum())
