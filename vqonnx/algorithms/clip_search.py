"""Clip search: give up the ends of a range where that leaves less squared error.

The scale of a block is shrunk to ``ratio * scale``, at the same zero point, for each of some ratios. Either each block
takes the ratio of its least error, or one ratio serves the whole weight (Neural Compressor's ``search_clip``: 40 ratios
down to 0.805). The first ratio is 1, so that the error is never larger than round-to-nearest's.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vqonnx.algorithms.base import Algorithm, LayerProblem, LayerSolution, Needs, one_by_one, register
from vqonnx.algorithms.slabs import by_slabs, slabs
from vqonnx.core.blocks import BlockSpec, QuantizedBlocks
from vqonnx.errors import OptionError
from vqonnx.kernels.blas import over_columns
from vqonnx.kernels.blocks.grid import (
    F32,
    F64,
    BlockGrid,
    FloatArray,
    checked_energy,
    checked_weight,
    matrix_shape,
    min_max_grid,
    round_to_grid,
    top_code,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSearchConfig:
    """Options of the clip search.

    Attributes:
        smallest: Smallest ratio that is tried.
        ratios: How many are tried, evenly from 1 down to ``smallest``.
        per_layer: Whether one ratio serves the whole weight.
    """

    smallest: float = 0.81
    ratios: int = 20
    per_layer: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.smallest <= 1:
            raise OptionError(f"smallest is a share and must lie in (0, 1], got {self.smallest}", option="smallest")
        if self.ratios < 1:
            raise OptionError(f"ratios must be at least 1, got {self.ratios}", option="ratios")

    def candidates(self) -> F32:
        """The ratios, from 1 down."""
        return np.linspace(1.0, self.smallest, self.ratios, dtype=np.float32)


DEFAULT = ClipSearchConfig()


def clip_search(
    weight: FloatArray,
    spec: BlockSpec,
    energy: npt.ArrayLike | None = None,
    config: ClipSearchConfig = DEFAULT,
) -> QuantizedBlocks:
    """Quantize ``weight`` on ranges clipped for the least squared error.

    Args:
        weight: [K, N], float16, float32 or float64.
        spec: Bits, block size, symmetry.
        energy: Mean squares of the K inputs, or the Hessian's diagonal, [K]; all alike if None (no data).
        config: Which ratios to try.

    Raises:
        QuantRangeError: The weight holds NaN or infinity.
        OptionError: ``energy`` does not fit the weight.
    """
    weights = checked_energy(energy, matrix_shape(weight)[0])
    ratio = layer_ratio(weight, spec, energy, config) if config.per_layer else None

    def solve(slab: FloatArray) -> QuantizedBlocks:
        single = checked_weight(slab)
        if ratio is None:
            grid, _ = clipped_grid(single, weights, spec, config)
        else:
            grid = min_max_grid(single, spec).scaled(np.float32(ratio))
        return round_to_grid(slab, grid, spec)

    return by_slabs(weight, solve)


def layer_ratio(
    weight: FloatArray, spec: BlockSpec, energy: npt.ArrayLike | None = None, config: ClipSearchConfig = DEFAULT
) -> float:
    """The one ratio that leaves the least error in the whole weight; arguments as for ``clip_search``."""
    weights, totals = checked_energy(energy, matrix_shape(weight)[0]), np.zeros(config.ratios)
    for left, right in slabs(*weight.shape):
        totals += clipped_grid(checked_weight(weight[:, left:right]), weights, spec, config)[1]
    return float(config.candidates()[totals.argmin()])


def clipped_grid(
    weight: F32, energy: F32, spec: BlockSpec, config: ClipSearchConfig = DEFAULT
) -> tuple[BlockGrid, F64]:
    """The grid of each block's best ratio, and each ratio's weighted squared error over the whole weight, [R]."""
    from vqonnx.kernels.blocks import clip_loops

    grid, ratios = min_max_grid(weight, spec), config.candidates()
    totals = np.empty((ratios.size, weight.shape[1]))

    def tile(left: int, right: int) -> None:
        form, out = (spec.size_for(weight.shape[0]), top_code(spec)), (grid.scales, grid.zero_points, totals)
        clip_loops.clip(weight, energy, form, (left, right), ratios, out)

    over_columns(tile, weight.shape[1])
    return grid, totals.sum(axis=1)


def _solve(problem: LayerProblem, config: ClipSearchConfig) -> LayerSolution:
    return LayerSolution(packed=clip_search(problem.weight, problem.block_spec, problem.energy, config))


register(
    Algorithm(
        name="clip_search",
        aliases=("clip", "mse"),
        summary="give up the ends of each block's range where that leaves less squared error",
        needs=Needs.ENERGY,
        options=ClipSearchConfig,
        solve=one_by_one(_solve),
    )
)
