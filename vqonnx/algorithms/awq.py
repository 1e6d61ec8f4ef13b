"""AWQ: let salient inputs have finer steps, by scaling rows of the weight up and the inputs down.

Lin et al. 2023 (arXiv:2306.00978), section 3.2. For y = x W, (x / t) (diag(t) W) is the same function, but rounding
diag(t) W moves rows with a large t less. t = a^alpha, a the size of each input, and alpha is searched on a grid for the
least squared output error (equation 4); here exactly, as tr(E^T H E), without any samples. Then the ranges of blocks
are clipped where that helps, as the authors' code does.

Dividing the inputs by t is left to the graph: fold 1 / t into the norm or the linear layer before. Layers that
read the same inputs share one t, so pass their weights side by side as one [K, N1 + N2 + ..].
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vqonnx.algorithms.clip_search import clipped_grid
from vqonnx.core.blocks import BlockSpec, QuantizedBlocks
from vqonnx.errors import OptionError
from vqonnx.kernels.block_grid import (
    F32,
    F64,
    BlockGrid,
    FloatArray,
    checked_energy,
    checked_weight,
    min_max_grid,
    nearest_values,
    round_to_grid,
)
from vqonnx.kernels.hessian import checked_hessian, output_error


@dataclass(frozen=True, slots=True, kw_only=True)
class AwqConfig:
    """Options of AWQ.

    Attributes:
        alphas: Exponents tried, evenly from 0 (no scaling) below 1.
        by_weight: Whether each alpha > 0 is also tried with t / (mean |w| of the row)^(1 - alpha), as AutoAWQ has it.
        clip: Whether the ranges of blocks may be clipped.
        columns: Columns of the weight, evenly spread, that alpha is chosen by; the result is compared on all.
    """

    alphas: int = 20
    by_weight: bool = True
    clip: bool = True
    columns: int = 128

    def __post_init__(self) -> None:
        for name in ("alphas", "columns"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, got {getattr(self, name)}", option=name)


@dataclass(frozen=True, slots=True, eq=False)
class AwqSolution:
    """What AWQ found.

    Attributes:
        blocks: ``diag(channel_scales) W``, quantized.
        channel_scales: float32 [K], t > 0; divide the layer's inputs by it. All 1 where no scaling helped.
        error: Squared output error tr(E^T H E), E the error of diag(1 / t) times the decoded blocks.
        rounding_error: The same for round-to-nearest of W; ``error`` is never larger.
    """

    blocks: QuantizedBlocks
    channel_scales: F32
    error: float
    rounding_error: float


def awq(
    weight: FloatArray,
    hessian: FloatArray,
    spec: BlockSpec,
    config: AwqConfig | None = None,
    magnitude: npt.ArrayLike | None = None,
) -> AwqSolution:
    """Scale the rows of ``weight`` and quantize it.

    Args:
        weight: [K, N], float16, float32 or float64.
        hessian: [K, K], sum or mean of x x^T over the layer's inputs.
        spec: Bits, block size, symmetry.
        config: Options.
        magnitude: Size of each input, [K], for instance mean |x|; its root mean square, sqrt(diag H), if None.

    Raises:
        QuantRangeError: The weight holds NaN or infinity.
        OptionError: The Hessian or the magnitudes do not fit the weight, or are not finite.
    """
    config, single = config or AwqConfig(), checked_weight(weight)
    moment = checked_hessian(hessian, single.shape[0])
    sizes = np.sqrt(np.diagonal(moment)) if magnitude is None else magnitude
    inputs = checked_energy(sizes, single.shape[0]).astype(np.float64)
    chosen = _best_scales(single, moment, inputs, spec, config)
    trials = [_Trial.of(single, scales, spec, weight.dtype) for scales in (np.ones_like(chosen), chosen)]
    if config.clip:
        trials += [trial.clipped(moment, spec, weight.dtype) for trial in trials]
    errors = [output_error(single, trial.values(spec), moment) for trial in trials]
    best = trials[int(np.argmin(errors))]
    blocks = round_to_grid(best.scaled.astype(weight.dtype), best.grid, spec)
    return AwqSolution(blocks, best.channel_scales, min(errors), errors[0])


def _best_scales(weight: F32, moment: F64, inputs: F64, spec: BlockSpec, config: AwqConfig) -> F32:
    step = -(-weight.shape[1] // config.columns)
    some = np.ascontiguousarray(weight[:, ::step])
    candidates = _candidates(weight, inputs, config)
    single = moment.astype(np.float32)
    errors = [output_error(some, _Trial.of(some, t, spec, np.float32).values(spec), single) for t in candidates]
    return candidates[int(np.argmin(errors))]


def _candidates(weight: F32, inputs: F64, config: AwqConfig) -> list[F32]:
    """Scales t to try; the first are ones."""
    rows = np.abs(weight).mean(axis=1, dtype=np.float64)
    rows = np.maximum(rows / rows.mean(), 1e-4) if rows.any() else np.ones_like(rows)
    found = []
    for alpha in np.arange(config.alphas) / config.alphas:
        powers = [inputs**alpha] + ([inputs**alpha / rows ** (1 - alpha)] if config.by_weight and alpha > 0 else [])
        found += [np.clip(power / np.sqrt(power.max() * power.min()), 1e-4, 1e4) for power in powers]
    return [scales.astype(np.float32) for scales in found]


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """``diag(channel_scales) W``, and a grid for it whose scales are as they will be stored."""

    scaled: F32
    channel_scales: F32
    grid: BlockGrid

    @classmethod
    def of(cls, weight: F32, channel_scales: F32, spec: BlockSpec, dtype: npt.DTypeLike) -> "_Trial":
        """On the grid of round-to-nearest."""
        scaled = weight * channel_scales[:, None]
        return cls(scaled, channel_scales, min_max_grid(scaled, spec).rounded(dtype))

    def clipped(self, moment: F64, spec: BlockSpec, dtype: npt.DTypeLike) -> "_Trial":
        """On each block's range of the least error, weighted by the energy of the scaled inputs."""
        energy = checked_energy(np.diagonal(moment) / np.square(self.channel_scales, dtype=np.float64), moment.shape[0])
        return _Trial(self.scaled, self.channel_scales, clipped_grid(self.scaled, energy, spec)[0].rounded(dtype))

    def values(self, spec: BlockSpec) -> F32:
        """What stands in place of the weight, [K, N]."""
        return nearest_values(self.scaled, self.grid, spec) / self.channel_scales[:, None]
