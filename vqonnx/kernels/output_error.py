"""Positions of a product's weight, bias and output, chosen together by the error of its output.

The position of least error in the weight itself is not that of least error behind it: what inputs rarely excite may
be clipped, and a clip hides what lies beyond it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vqonnx.core.params import QuantParams
from vqonnx.errors import OptionError
from vqonnx.kernels.affine import dequantize, quantize
from vqonnx.kernels.positions import CANDIDATES
from vqonnx.kernels.scale_grid import at_position, position_of

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.floating]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Product:
    """y = clip(x W^T + b), in G groups of O outputs and K inputs each.

    Attributes:
        weight: Float, [G, O, K].
        weight_params: Type, zero point and first position of its codes, one scale for all.
        bias: Float, [G, O]; None if there is none.
        bias_params: The same of its codes; None where it is exact (int32 at the accumulator's scale).
        output_params: The same of the output; None where it stays float.
        low: Lower bound of the activation behind it.
        high: Its upper bound.
    """

    weight: FloatArray
    weight_params: QuantParams
    bias: FloatArray | None = None
    bias_params: QuantParams | None = None
    output_params: QuantParams | None = None
    low: float = -np.inf
    high: float = np.inf

    def weight_at(self, position: int) -> F32:
        """The weight as its codes have it."""
        return _rounded(self.weight, at_position(self.weight_params, position))

    def bias_at(self, position: int | None) -> F32:
        """The bias as its codes have it, [G, O]; exact without a position."""
        if self.bias is None:
            return np.zeros(self.weight.shape[:2], np.float32)
        if position is None or self.bias_params is None:
            return self.bias.astype(np.float32)
        return _rounded(self.bias, at_position(self.bias_params, position))

    def output_at(self, results: F32, position: int | None) -> F32:
        """What is left of results [G, n, O] behind the activation, as the output's codes have it."""
        clipped = np.clip(results, self.low, self.high)
        if position is None or self.output_params is None:
            return clipped
        return _rounded(clipped, at_position(self.output_params, position))


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Positions to try, the first of equals first; (None,) for what has no position."""

    weight: tuple[int, ...]
    bias: tuple[int | None, ...] = (None,)
    output: tuple[int | None, ...] = (None,)

    @classmethod
    def around(cls, product: Product, steps: Sequence[int] = CANDIDATES) -> "Candidates":
        """The product's own positions plus each of ``steps``."""

        def near(params: QuantParams | None) -> tuple[int | None, ...]:
            if params is None:
                return (None,)
            return tuple(int(position_of(params.scale)) + step for step in steps)

        first = int(position_of(product.weight_params.scale))
        weight = tuple(first + step for step in steps)
        return cls(weight=weight, bias=near(product.bias_params), output=near(product.output_params))


@dataclass(frozen=True, slots=True)
class Choice:
    """The positions of least error, and that error."""

    weight: int
    bias: int | None
    output: int | None
    error: float


def search_positions(product: Product, inputs: FloatArray, wanted: FloatArray, candidates: Candidates) -> Choice:
    """The candidates of least mean squared error of the output.

    Args:
        product: The layer.
        inputs: Some of its inputs as the device has them, [G, n, K].
        wanted: What its output is in the float model, behind the activation, [G, n, O].
        candidates: Positions to try, each with each.

    Raises:
        OptionError: The shapes do not belong together.
    """
    errors = sample_errors(product, inputs, wanted, candidates)
    w, b, o = (int(place) for place in np.unravel_index(errors.argmin(), errors.shape))
    return Choice(candidates.weight[w], candidates.bias[b], candidates.output[o], float(errors[w, b, o]))


def sample_errors(product: Product, inputs: FloatArray, wanted: FloatArray, candidates: Candidates) -> F64:
    """Mean squared error of the output for all candidates, [weights, biases, outputs]; as ``search_positions``."""
    groups, outputs, depth = product.weight.shape
    if inputs.shape[::2] != (groups, depth) or wanted.shape != (groups, inputs.shape[1], outputs):
        raise OptionError(
            f"a weight of shape {product.weight.shape} takes inputs [{groups}, n, {depth}] and gives outputs "
            f"[{groups}, n, {outputs}], got {inputs.shape} and {wanted.shape}",
            option="inputs",
        )
    errors = np.empty((len(candidates.weight), len(candidates.bias), len(candidates.output)))
    rows, targets = inputs.astype(np.float32), wanted.astype(np.float32)
    for w, weight in enumerate(candidates.weight):
        products = rows @ product.weight_at(weight).transpose(0, 2, 1)
        for b, bias in enumerate(candidates.bias):
            results = products + product.bias_at(bias)[:, None]
            for o, output in enumerate(candidates.output):
                change = (product.output_at(results, output) - targets).reshape(-1)
                errors[w, b, o] = np.dot(change, change) / change.size
    return errors


def _rounded(values: FloatArray, params: QuantParams) -> F32:
    return dequantize(quantize(values, params), params).astype(np.float32)
