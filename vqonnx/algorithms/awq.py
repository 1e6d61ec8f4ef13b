"""AWQ: let salient inputs have finer steps, by scaling rows of the weight up and the inputs down.

Lin et al. 2023 (arXiv:2306.00978); ``channel_scales.py`` says how the scales t are chosen. Then the grids of the blocks
of diag(t) W are searched, or their ranges clipped as the authors' code does, where that lowers the output error.

Dividing the inputs by t is left to the graph: fold 1 / t into the norm or the linear layer before.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import numpy.typing as npt

from vqonnx.algorithms.base import Algorithm, LayerProblem, LayerSolution, Needs, register
from vqonnx.algorithms.channel_scales import Inputs, Search, best_scales, missed
from vqonnx.algorithms.clip_search import clipped_grid
from vqonnx.algorithms.scale_search import search_grid
from vqonnx.algorithms.slabs import by_slabs, slabs
from vqonnx.core.blocks import BlockSpec, QuantizedBlocks
from vqonnx.errors import OptionError
from vqonnx.kernels.blocks.errors import SecondMoment
from vqonnx.kernels.blocks.grid import (
    F32,
    F64,
    BlockGrid,
    FloatArray,
    checked_weight,
    matrix_shape,
    min_max_grid,
    round_to_grid,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AwqConfig:
    """Options of AWQ.

    Attributes:
        alphas: Exponents tried, evenly from 0 (no scaling) below 1.
        by_weight: Whether each alpha > 0 is also tried with t / (mean |w| of the row)^(1 - alpha), as AutoAWQ has it.
        clip: Whether the ranges of blocks may be clipped.
        search: Whether that is done by a search of scales and zero points (``scale_search``) in place of shrinking the
            range (``clip_search``).
        columns: Columns of the weight, evenly spread, that alpha is chosen by; the result is compared on all.
    """

    alphas: int = 20
    by_weight: bool = True
    clip: bool = True
    search: bool = True
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
    inputs = Inputs.of(SecondMoment(np.asarray(hessian, np.float64)), matrix_shape(weight)[0], magnitude)
    (solution,) = _together([weight], [spec], inputs, config)
    return solution


def _together(
    weights: Sequence[FloatArray],
    specs: Sequence[BlockSpec],
    inputs: Inputs,
    config: AwqConfig,
    *,
    scalable: bool = True,
) -> Iterator[AwqSolution]:
    """Weights that read the same inputs, on the channel scales that suit them all best."""
    choices = [np.ones(len(inputs.sizes), np.float32)]
    if scalable:
        search = Search(alphas=config.alphas, by_weight=config.by_weight, columns=config.columns)
        choices.append(best_scales(weights, specs, inputs, search))
    trials = [[_trials(t, spec, inputs, config) for t in choices] for spec in specs]
    tables = [_Errors.of(weight, rows, inputs.moment) for weight, rows in zip(weights, trials, strict=True)]
    best = int(np.argmin(sum(table.relative() for table in tables)))
    for weight, rows, table in zip(weights, trials, tables, strict=True):
        errors = table.of_trials[best]
        blocks = by_slabs(weight, rows[best][int(errors.argmin())].packed)
        yield AwqSolution(blocks, choices[best], float(errors.min()), float(table.of_trials[0, 0]))


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """A way to quantize a weight.

    Attributes:
        channel_scales: t [K].
        spec: Bits, block size, symmetry.
        energy: What the rows of ``diag(t) W`` count where grids are searched; None on the ranges as they are.
        search: Whether scales and zero points are searched, or ranges are clipped.
    """

    channel_scales: F32
    spec: BlockSpec
    energy: F32 | None
    search: bool

    def packed(self, slab: FloatArray) -> QuantizedBlocks:
        """``diag(t) W``, quantized; the product itself stays float32, which float16 might not hold."""
        dtype = np.dtype(np.float32 if slab.dtype == np.float64 else slab.dtype)
        scaled = checked_weight(slab) * self.channel_scales[:, None]
        blocks = round_to_grid(scaled, self._grid(scaled, dtype), self.spec)
        return replace(blocks, scales=blocks.scales.astype(dtype))

    def missed(self, slab: FloatArray) -> F32:
        """What the quantized columns miss of the weight, [K, C]."""
        return missed(checked_weight(slab), self.channel_scales, self.spec, lambda w: self._grid(w, slab.dtype))

    def _grid(self, scaled: F32, dtype: npt.DTypeLike) -> BlockGrid:
        if self.energy is None:
            grid = min_max_grid(scaled, self.spec)
        elif self.search:
            grid = search_grid(scaled, self.energy, self.spec)
        else:
            grid, _ = clipped_grid(scaled, self.energy, self.spec)
        return grid.rounded(dtype)


def _trials(channel_scales: F32, spec: BlockSpec, inputs: Inputs, config: AwqConfig) -> list[_Trial]:
    """On the ranges as they are and, where that is allowed, on others."""
    energies = [None, inputs.divided_energy(channel_scales)][: 1 + config.clip]
    return [_Trial(channel_scales, spec, energy, config.search) for energy in energies]


@dataclass(frozen=True, slots=True, eq=False)
class _Errors:
    """Squared output errors of one weight.

    Attributes:
        of_trials: [T, 1 or 2]: of each trial, a row for each of T channel scales.
        norm: The output's own squared norm.
    """

    of_trials: F64
    norm: float

    @classmethod
    def of(cls, weight: FloatArray, trials: Sequence[Sequence[_Trial]], moment: SecondMoment) -> "_Errors":
        errors, norm = np.zeros((len(trials), len(trials[0]))), 0.0
        for left, right in slabs(*weight.shape):
            slab = weight[:, left:right]
            norm += moment.output_error(checked_weight(slab))
            errors += [[moment.output_error(trial.missed(slab)) for trial in row] for row in trials]
        return cls(errors, norm)

    def relative(self) -> F64:
        """The least error with each of the channel scales, relative to the output, [T]."""
        least: F64 = self.of_trials.min(axis=1) / (self.norm or 1.0)
        return least


def _solve(problems: Sequence[LayerProblem], config: AwqConfig) -> Iterator[LayerSolution]:
    for _, group in groupby(problems, key=lambda problem: id(problem.hessian)):
        yield from _solve_group(list(group), config)


def _solve_group(problems: Sequence[LayerProblem], config: AwqConfig) -> Iterator[LayerSolution]:
    """Weights that are multiplied with the very same inputs."""
    first = problems[0]
    if first.hessian is None:
        raise OptionError("AWQ needs the second moments of the weights' inputs", option="calibration")
    inputs = Inputs.of(first.hessian, matrix_shape(first.weight)[0])
    weights, specs = [problem.weight for problem in problems], [problem.block_spec for problem in problems]
    scalable = all(problem.scalable for problem in problems)
    for solution in _together(weights, specs, inputs, config, scalable=scalable):
        scaled = bool((solution.channel_scales != 1).any())
        yield LayerSolution(packed=solution.blocks, channel_scales=solution.channel_scales if scaled else None)


register(
    Algorithm(
        name="awq",
        aliases=("nvidia_awq",),
        summary="give salient inputs finer steps by channel scales that the operator before undoes",
        needs=Needs.HESSIAN,
        options=AwqConfig,
        solve=_solve,
    )
)
