"""GPTQ: round one input row of the weight after the other, and let the rows still to come make up for the error.

Frantar et al. 2022 (arXiv:2210.17323). For the squared output error tr((W - V)^T H (W - V)), the best answer of the
free rows to the error of row i follows from U, the upper Cholesky factor of the inverse Hessian (section 3.3, step 3):
``w_j -= U_ij / U_ii * (w_i - v_i)`` for all j > i. Rows are solved in steps of 128; within a step the feedback is a
compiled loop, and the rows behind it are updated by one matrix product (step 2, lazy batch updates). Columns do not
depend on each other: fixed tiles of them run side by side, and the result is the same for any number of threads.

The codes are returned on the very grid that they were rounded on.

Where the graph can undo them, AWQ's channel scales come first: they make the salient rows' own rounding finer, which
feedback cannot. Perplexity of SmolLM2-135M at 4 bits, block 32, asymmetric: 24.9 without them, 23.9 with (AWQ alone
24.4, float 22.4).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import groupby

import numpy as np
import numpy.typing as npt

from vqonnx.algorithms.base import Algorithm, LayerProblem, LayerSolution, Needs, register
from vqonnx.algorithms.channel_scales import Inputs, best_scales
from vqonnx.algorithms.scale_search import search_grid
from vqonnx.algorithms.slabs import by_slabs
from vqonnx.core.blocks import BlockSpec, QuantizedBlocks, block_count
from vqonnx.errors import OptionError
from vqonnx.kernels.blas import one_blas_thread, over_columns
from vqonnx.kernels.blocks.errors import SecondMoment
from vqonnx.kernels.blocks.grid import (
    F32,
    U8,
    BlockGrid,
    FloatArray,
    checked_energy,
    checked_weight,
    matrix_shape,
    min_max_grid,
    packed,
    top_code,
)
from vqonnx.kernels.blocks.hessian import checked_hessian, damped, inverse_factor

_STEP = 128  # rows in a step; no effect on the result but rounding
_LARGEST_DAMPING = 1.0


class Grid(Enum):
    """How the grid of a block is chosen."""

    MIN_MAX = "min-max"
    SEARCH = "search"


@dataclass(frozen=True, slots=True, kw_only=True)
class GptqConfig:
    """Options of GPTQ.

    Attributes:
        damping: Share of the mean of the Hessian's diagonal that is added to it, so that it can be inverted.
        order_by_activation: Solve the rows with the largest inputs first ("act-order"). Grids are then chosen
            beforehand, on the original weight ("static groups"), and the codes still come back in the original order.
        static_grids: Choose all grids beforehand, on the original weight, instead of each when its rows' turn comes.
        grid: How grids are chosen.
        channel_scales: Whether rows of the weight may be scaled first as AWQ does, where the graph can undo it.
    """

    damping: float = 0.01
    order_by_activation: bool = False
    static_grids: bool = False
    grid: Grid = Grid.SEARCH
    channel_scales: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.damping < 1:
            raise OptionError(f"damping is a share and must lie in (0, 1), got {self.damping}", option="damping")


DEFAULT = GptqConfig()


@dataclass(frozen=True, slots=True, eq=False)
class Feedback:
    """How the errors of rows are answered by others: what GPTQ makes of the inputs, for all weights that read them.

    Attributes:
        order: Rows in solving order, [K].
        factor: float32 [K, K], the upper factor U of the inverse Hessian, U^T U = H^-1, rows and columns in that order.
        energy: float32 [K], what the choice of a grid weighs the rows with, in the original order.
        damping: Share of the Hessian's mean diagonal that was added to it.
        channel_scales: float32 t [K], by which rows are multiplied first, where H is that of inputs divided by t.
    """

    order: npt.NDArray[np.int64]
    factor: F32
    energy: F32
    damping: float
    channel_scales: F32 | None = None

    @classmethod
    def of(cls, hessian: FloatArray, config: GptqConfig) -> "Feedback":
        """From H [K, K]. Where it cannot be factored, damping is raised tenfold, up to the whole mean diagonal.

        Raises:
            OptionError: The Hessian is not square or not finite, or no damping makes it positive definite.
        """
        moment = checked_hessian(hessian, len(hessian))
        order = np.arange(len(moment))
        if config.order_by_activation:
            order = np.argsort(-np.diagonal(moment), kind="stable")
        # Grids are searched with diag H, although feedback would suggest 1 / U_ii^2: perplexity of SmolLM2-135M at 4
        # bits, block 32, is 24.6 with diag H, 25.3 with 1 / U_ii^2, 25.8 without weights, 26.6 on min/max grids
        # (float 22.4).
        energy, damping = checked_energy(np.diagonal(moment), len(moment)), config.damping
        while True:
            try:
                factor = inverse_factor(damped(moment, damping)[np.ix_(order, order)])
            except OptionError:
                if damping >= _LARGEST_DAMPING:
                    raise
                damping = min(10 * damping, _LARGEST_DAMPING)
            else:
                return cls(order, factor.astype(np.float32), energy, damping)


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    """One weight, its rows in solving order.

    Attributes:
        weight: float32 [K, N], the weight; not changed.
        feedback: What is known of the inputs.
        block_of: Block of each row, [K].
        grid: Scales and zero points [J, N]; filled as the rows' turns come, unless ``chosen``.
        chosen: Whether the grids were chosen beforehand.
        dtype: Type that scales are stored in.
    """

    weight: F32
    feedback: Feedback
    block_of: npt.NDArray[np.int64]
    grid: BlockGrid
    chosen: bool
    dtype: np.dtype[np.generic]


def gptq(
    weight: FloatArray,
    hessian: FloatArray | Feedback,
    spec: BlockSpec,
    config: GptqConfig = DEFAULT,
    *,
    threads: int | None = None,
) -> QuantizedBlocks:
    """Quantize ``weight`` for the least squared error of the layer's output.

    Inputs that were always 0 in calibration take no part; their rows are rounded to nearest.

    Args:
        weight: [K, N], float16, float32 or float64.
        hessian: [K, K], sum or mean of x x^T over the layer's inputs; see
            ``kernels.blocks.hessian.accumulate``. Layers that read the same inputs can share one ``Feedback.of`` it.
        spec: Bits, block size, symmetry.
        config: Options.
        threads: Threads to use; as many as there are processors if None.

    Raises:
        QuantRangeError: The weight holds NaN or infinity.
        OptionError: The Hessian does not fit the weight, is not finite, or not positive definite.
    """
    k, _ = matrix_shape(weight)
    feedback = hessian if isinstance(hessian, Feedback) else Feedback.of(checked_hessian(hessian, k), config)
    return by_slabs(weight, lambda slab: _solve_slab(slab, feedback, spec, config, threads))


def _solve_slab(
    slab: FloatArray, feedback: Feedback, spec: BlockSpec, config: GptqConfig, threads: int | None
) -> QuantizedBlocks:
    weight = checked_weight(slab)
    if feedback.channel_scales is not None:
        weight = weight * feedback.channel_scales[:, np.newaxis]
    problem = _prepared(weight, feedback, spec, config, slab.dtype)
    codes = np.empty(weight.shape, np.uint8)

    def tile(left: int, right: int) -> None:
        codes[feedback.order, left:right] = _solve_columns(problem, spec, config, left, right)

    with one_blas_thread():
        over_columns(tile, weight.shape[1], threads=threads)
    return packed(codes, problem.grid, spec, slab.dtype)


def _prepared(weight: F32, feedback: Feedback, spec: BlockSpec, config: GptqConfig, dtype: npt.DTypeLike) -> _Problem:
    k, n = weight.shape
    size = spec.size_for(k)
    chosen = config.static_grids or config.order_by_activation
    if chosen:
        grid = _chosen_grid(weight, feedback.energy, spec, config).rounded(dtype)
    else:
        empty = np.empty((block_count(k, size), n), np.float32)
        grid = BlockGrid(empty, empty.copy())
    ordered = np.ascontiguousarray(weight[feedback.order]) if config.order_by_activation else weight
    return _Problem(ordered, feedback, feedback.order // size, grid, chosen, np.dtype(dtype))


def _chosen_grid(
    weight: F32, energy: F32, spec: BlockSpec, config: GptqConfig, threads: int | None = None
) -> BlockGrid:
    if config.grid is Grid.MIN_MAX:
        return min_max_grid(weight, spec, threads=threads)
    return search_grid(weight, energy, spec, threads=threads)


def _solve_columns(problem: _Problem, spec: BlockSpec, config: GptqConfig, left: int, right: int) -> U8:
    """Codes of the columns [left, right), rows in solving order; fills their part of the grid."""
    from vqonnx.kernels.blocks import gptq_loops

    rows = problem.weight[:, left:right].copy()
    k, size, top = rows.shape[0], spec.size_for(rows.shape[0]), top_code(spec)
    scales, zeros = problem.grid.scales[:, left:right].copy(), problem.grid.zero_points[:, left:right].copy()
    codes, errors = np.empty(rows.shape, np.uint8), np.empty((_STEP, right - left), np.float32)
    for start in range(0, k, _STEP):
        stop = min(start + _STEP, k)
        inner = np.ascontiguousarray(problem.feedback.factor[start:stop, start:stop])
        grid = (scales, zeros, problem.block_of[start:stop], top)
        for first in range(start, stop, min(size, _STEP)):
            last = min(first + size, stop)
            if not problem.chosen and first % size == 0:
                block = slice(first, first + size)
                found = _chosen_grid(rows[block], problem.feedback.energy[block], spec, config, threads=1)
                stored = found.rounded(problem.dtype)
                scales[first // size], zeros[first // size] = stored.scales[0], stored.zero_points[0]
            span = (first - start, last - start, stop - start)
            gptq_loops.feed_back(rows[start:stop], inner, span, grid, codes[start:stop], errors)
        rows[stop:] -= problem.feedback.factor[start:stop, stop:].T @ errors[: stop - start]
    problem.grid.scales[:, left:right], problem.grid.zero_points[:, left:right] = scales, zeros
    return codes


def _solve(problems: Sequence[LayerProblem], config: GptqConfig) -> Iterator[LayerSolution]:
    for _, group in groupby(problems, key=lambda problem: id(problem.hessian)):
        yield from _solve_group(list(group), config)


def _solve_group(problems: Sequence[LayerProblem], config: GptqConfig) -> Iterator[LayerSolution]:
    """Weights that are multiplied with the very same inputs."""
    moment = problems[0].hessian
    if moment is None:
        raise OptionError("GPTQ needs the second moments of the weight's inputs", option="calibration")
    feedback = _feedback(problems, moment, config)
    for problem in problems:
        yield LayerSolution(
            packed=gptq(problem.weight, feedback, problem.block_spec, config),
            channel_scales=feedback.channel_scales,
            note=_note(feedback, config),
        )


def _feedback(problems: Sequence[LayerProblem], moment: SecondMoment, config: GptqConfig) -> Feedback:
    """Of the inputs, or of these divided by the channel scales that suit all weights best."""
    if config.channel_scales and all(problem.scalable for problem in problems):
        weights, specs = [problem.weight for problem in problems], [problem.block_spec for problem in problems]
        inputs = Inputs.of(moment, matrix_shape(weights[0])[0])
        scales = best_scales(weights, specs, inputs)
        if (scales != 1).any():
            return replace(Feedback.of(inputs.divided_moment(scales), config), channel_scales=scales)
    return Feedback.of(moment.matrix, config)


def _note(feedback: Feedback, config: GptqConfig) -> str:
    if feedback.damping == config.damping:
        return ""
    return f"the Hessian was not positive definite with damping {config.damping:g}; it is with {feedback.damping:g}"


register(
    Algorithm(
        name="gptq",
        summary="round row after row, and let the rows still to come make up for the output error; the most accurate",
        needs=Needs.HESSIAN,
        options=GptqConfig,
        solve=_solve,
    )
)
