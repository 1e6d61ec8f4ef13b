"""AWQ: let salient inputs have finer steps, by scaling rows of the weight up and the inputs down.

Lin et al. 2023 (arXiv:2306.00978), section 3.2. For y = x W, (x / t) (diag(t) W) is the same function, but rounding
diag(t) W moves rows with a large t less. t = a^alpha, a the size of each input, and alpha is searched on a grid for the
least squared output error (equation 4); here exactly, as tr(E^T H E), without any samples. Then the ranges of blocks
are clipped where that helps, as the authors' code does.

Dividing the inputs by t is left to the graph: fold 1 / t into the norm or the linear layer before. Layers that
read the same inputs share one t; the sum of their relative errors chooses it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import numpy.typing as npt

from vqonnx.algorithms.base import Algorithm, LayerProblem, LayerSolution, Needs, register
from vqonnx.algorithms.clip_search import clipped_grid
from vqonnx.algorithms.slabs import by_slabs, slabs
from vqonnx.core.blocks import BlockSpec, QuantizedBlocks
from vqonnx.errors import OptionError
from vqonnx.kernels.block_errors import SecondMoment
from vqonnx.kernels.block_grid import (
    F32,
    F64,
    BlockGrid,
    FloatArray,
    checked_energy,
    checked_weight,
    matrix_shape,
    min_max_grid,
    nearest_values,
    round_to_grid,
)
from vqonnx.kernels.hessian import checked_hessian
from vqonnx.kernels.parallel import in_parallel


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


DEFAULT = AwqConfig()


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
    config: AwqConfig = DEFAULT,
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
    inputs = _Inputs.of(SecondMoment(np.asarray(hessian, np.float64)), matrix_shape(weight)[0], magnitude)
    (solution,) = _together([weight], [spec], inputs, config)
    return solution


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """What is known of the inputs that one or several weights are multiplied with.

    Attributes:
        moment: H.
        sizes: a, the size of each input, [K].
    """

    moment: SecondMoment
    sizes: F64

    @classmethod
    def of(cls, moment: SecondMoment, k: int, magnitude: npt.ArrayLike | None = None) -> "_Inputs":
        checked_hessian(moment.matrix, k)
        sizes = checked_energy(np.sqrt(moment.energy) if magnitude is None else magnitude, k)
        return cls(moment, sizes.astype(np.float64))

    def divided(self, channel_scales: F32) -> F32:
        """Energies of the inputs divided by ``channel_scales``."""
        return checked_energy(self.moment.energy / np.square(channel_scales, dtype=np.float64), len(self.sizes))


def _together(
    weights: Sequence[FloatArray],
    specs: Sequence[BlockSpec],
    inputs: _Inputs,
    config: AwqConfig,
    *,
    scalable: bool = True,
) -> Iterator[AwqSolution]:
    """Weights that read the same inputs, on the channel scales that suit them all best."""
    choices = [np.ones(len(inputs.sizes), np.float32)]
    if scalable:
        choices.append(_best_scales(weights, specs, inputs, config))
    tables = [_Errors.of(*pair, inputs, choices, config) for pair in zip(weights, specs, strict=True)]
    best = int(np.argmin(sum(table.relative() for table in tables)))
    for weight, spec, table in zip(weights, specs, tables, strict=True):
        errors = table.of_choices[best]
        trial = _Trial(choices[best], spec, weight.dtype, inputs.divided(choices[best]) if errors.argmin() else None)
        blocks = by_slabs(weight, trial.packed)
        yield AwqSolution(blocks, choices[best], float(errors.min()), float(table.of_choices[0, 0]))


def _best_scales(weights: Sequence[FloatArray], specs: Sequence[BlockSpec], inputs: _Inputs, config: AwqConfig) -> F32:
    """The candidate of the least error in some columns of the weights, without clipping."""
    some = [checked_weight(weight[:, :: -(-weight.shape[1] // config.columns)]) for weight in weights]
    norms = [inputs.moment.output_error(weight) or 1.0 for weight in some]
    candidates = _candidates(some, inputs.sizes, config)
    errors = np.zeros(len(candidates))

    def work(start: int, stop: int) -> None:
        for number in range(start, stop):
            for weight, spec, norm in zip(some, specs, norms, strict=True):
                trial = _Trial(candidates[number], spec, np.dtype(np.float32))
                errors[number] += inputs.moment.output_error(trial.missed(weight, threads=1), threads=1) / norm

    in_parallel(work, len(candidates))
    return candidates[int(np.argmin(errors))]


def _candidates(weights: Sequence[F32], inputs: F64, config: AwqConfig) -> list[F32]:
    """Scales t to try; the first are ones."""
    rows = np.abs(np.concatenate(weights, axis=1)).mean(axis=1, dtype=np.float64)
    rows = np.maximum(rows / rows.mean(), 1e-4) if rows.any() else np.ones_like(rows)
    found = []
    for alpha in np.arange(config.alphas) / config.alphas:
        powers = [inputs**alpha] + ([inputs**alpha / rows ** (1 - alpha)] if config.by_weight and alpha > 0 else [])
        found += [np.clip(power / np.sqrt(power.max() * power.min()), 1e-4, 1e4) for power in powers]
    return [scales.astype(np.float32) for scales in found]


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """A way to quantize a weight: channel scales, and ranges that are clipped, or are not.

    Attributes:
        channel_scales: t [K].
        spec: Bits, block size, symmetry.
        dtype: Type that scales are stored in.
        energy: What the rows of ``diag(t) W`` count where ranges are clipped; None where they are not.
    """

    channel_scales: F32
    spec: BlockSpec
    dtype: np.dtype[np.floating]
    energy: F32 | None = None

    def packed(self, slab: FloatArray) -> QuantizedBlocks:
        """``diag(t) W``, quantized; the product itself stays float32, which float16 might not hold."""
        scaled = checked_weight(slab) * self.channel_scales[:, None]
        blocks = round_to_grid(scaled, self._grid(scaled), self.spec)
        return replace(blocks, scales=blocks.scales.astype(np.float32 if self.dtype == np.float64 else self.dtype))

    def missed(self, single: F32, *, threads: int | None = None) -> F32:
        """What the quantized columns miss of the weight, [K, C]."""
        rows = self.channel_scales[:, None]
        scaled = single * rows
        values = nearest_values(scaled, self._grid(scaled, threads=threads), self.spec, threads=threads)
        values /= rows
        return np.subtract(single, values, out=values)

    def _grid(self, scaled: F32, *, threads: int | None = None) -> BlockGrid:
        if self.energy is None:
            return min_max_grid(scaled, self.spec, threads=threads).rounded(self.dtype)
        return clipped_grid(scaled, self.energy, self.spec)[0].rounded(self.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class _Errors:
    """Squared output errors of one weight.

    Attributes:
        of_choices: [T, 1 or 2], for each of T channel scales the error without clipping and, where that is allowed,
            with it.
        norm: The output's own squared norm.
    """

    of_choices: F64
    norm: float

    @classmethod
    def of(
        cls, weight: FloatArray, spec: BlockSpec, inputs: _Inputs, choices: Sequence[F32], config: AwqConfig
    ) -> "_Errors":
        trials = [
            [_Trial(t, spec, weight.dtype, energy) for energy in (None, inputs.divided(t))[: 1 + config.clip]]
            for t in choices
        ]
        errors, norm = np.zeros((len(choices), 1 + config.clip)), 0.0
        for left, right in slabs(*weight.shape):
            single = checked_weight(weight[:, left:right])
            norm += inputs.moment.output_error(single)
            errors += [[inputs.moment.output_error(trial.missed(single)) for trial in row] for row in trials]
        return cls(errors, norm)

    def relative(self) -> F64:
        """The least error with each of the channel scales, relative to the output, [T]."""
        least: F64 = self.of_choices.min(axis=1) / (self.norm or 1.0)
        return least


def _solve(problems: Sequence[LayerProblem], config: AwqConfig) -> Iterator[LayerSolution]:
    for _, group in groupby(problems, key=lambda problem: id(problem.hessian)):
        yield from _solve_group(list(group), config)


def _solve_group(problems: Sequence[LayerProblem], config: AwqConfig) -> Iterator[LayerSolution]:
    """Weights that are multiplied with the very same inputs."""
    first = problems[0]
    if first.hessian is None:
        raise OptionError("AWQ needs the second moments of the weights' inputs", option="calibration")
    inputs = _Inputs.of(first.hessian, matrix_shape(first.weight)[0])
    weights, specs = [problem.weight for problem in problems], [problem.block_spec for problem in problems]
    scalable = all(problem.scalable for problem in problems)
    for solution in _together(weights, specs, inputs, config, scalable=scalable):
        scaled = bool((solution.channel_scales != 1).any())
        yield LayerSolution(packed=solution.blocks, channel_scales=solution.channel_scales if scaled else None)


register(
    Algorithm(
        name="awq",
        aliases=("nvidia_awq",),
        summary="give salient inputs finer steps by channel scales that the operator before undoes, and clip ranges",
        needs=Needs.HESSIAN,
        options=AwqConfig,
        solve=_solve,
    )
)
