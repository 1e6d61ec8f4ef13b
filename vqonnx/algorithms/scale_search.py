"""Scale search: the grid of each block that leaves the least squared error, weighted by input energy.

For a block w [B] with energies e [B] of the inputs it meets, the error is sum e (w - s (q - z))^2. For fixed codes q
and zero point z the best scale is ``s = sum e w (q - z) / sum e (q - z)^2``, and for a fixed grid the best codes are
the nearest; so, as in llama.cpp's k-quants, some starting scales and zero points are tried, then scales near the best,
and the best of all is refitted in turns. The zero point stays whole and within the codes. A block keeps the grid of
round-to-nearest unless the error falls.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vqonnx.algorithms.base import Algorithm, LayerProblem, LayerSolution, Needs, one_by_one, register
from vqonnx.algorithms.slabs import by_slabs
from vqonnx.core.blocks import BlockSpec, QuantizedBlocks
from vqonnx.errors import OptionError
from vqonnx.kernels.blas import over_columns
from vqonnx.kernels.blocks.grid import (
    F32,
    BlockGrid,
    FloatArray,
    checked_energy,
    checked_weight,
    matrix_shape,
    middle_code,
    min_max_grid,
    round_to_grid,
    top_code,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleSearchConfig:
    """Options of the scale search.

    Attributes:
        smallest: Smallest scale that is tried, as a share of the one that clips nothing.
        ratios: Scales tried for each zero point, evenly from ``smallest`` to the one that clips nothing.
        finer: Scales tried on either side of the best of these, within one step.
        zero_steps: Zero points tried on either side of round-to-nearest's.
        rounds: Rounds of nearest codes and least-squares scale at the end.
        favour: How much more the errors of large elements count: each has the weight 1 + favour * |w| / rms(block).
    """

    smallest: float = 0.5
    ratios: int = 9
    finer: int = 2
    zero_steps: int = 2
    rounds: int = 3
    favour: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.smallest <= 1:
            raise OptionError(f"smallest is a share and must lie in (0, 1], got {self.smallest}", option="smallest")
        for name, least in (("ratios", 1), ("finer", 0), ("zero_steps", 0), ("rounds", 0)):
            if getattr(self, name) < least:
                raise OptionError(f"{name} must be at least {least}, got {getattr(self, name)}", option=name)
        if self.favour < 0:
            raise OptionError(f"favour must be at least 0, got {self.favour}", option="favour")


DEFAULT = ScaleSearchConfig()


def search_grid(
    weight: F32, energy: F32, spec: BlockSpec, config: ScaleSearchConfig = DEFAULT, *, threads: int | None = None
) -> BlockGrid:
    """The best grid found for each block of a float32 weight [K, N]; ``energy`` [K] weighs its rows' errors."""
    from vqonnx.kernels.blocks import scale_loops

    grid = min_max_grid(weight, spec, threads=threads)
    # A symmetric grid reaches one code farther on one side; without clipping, its scale may be larger than the start's.
    largest = middle_code(spec) / (middle_code(spec) - 1) if spec.symmetric else 1.0
    ratios, around = _ratios(config, largest)

    def tile(left: int, right: int) -> None:
        shape, effort = (
            (spec.size_for(weight.shape[0]), top_code(spec), spec.symmetric),
            (ratios, around, config.zero_steps, config.rounds, config.favour),
        )
        scale_loops.search(weight, energy, shape, (left, right), effort, (grid.scales, grid.zero_points))

    over_columns(tile, weight.shape[1], threads=threads)
    return grid


def _ratios(config: ScaleSearchConfig, largest: float) -> tuple[F32, F32]:
    """Those to the scale that clips nothing, and then those to the best of them: factors within one step of it."""
    ratios = np.linspace(config.smallest, largest, config.ratios)
    step = (largest - config.smallest) / config.ratios / ratios.mean()
    near = np.arange(1, config.finer + 1) * (step / (config.finer + 1))
    return ratios.astype(np.float32), np.concatenate([1 - near[::-1], 1 + near]).astype(np.float32)


def scale_search(
    weight: FloatArray,
    spec: BlockSpec,
    energy: npt.ArrayLike | None = None,
    config: ScaleSearchConfig = DEFAULT,
) -> QuantizedBlocks:
    """Quantize ``weight`` on the best grid found for each block.

    Args:
        weight: [K, N], float16, float32 or float64.
        spec: Bits, block size, symmetry.
        energy: Mean squares of the K inputs, or the Hessian's diagonal, [K]; all alike if None (no data).
        config: How far to search.

    Raises:
        QuantRangeError: The weight holds NaN or infinity.
        OptionError: ``energy`` does not fit the weight.
    """
    weights = checked_energy(energy, matrix_shape(weight)[0])
    return by_slabs(
        weight, lambda slab: round_to_grid(slab, search_grid(checked_weight(slab), weights, spec, config), spec)
    )


def _solve(problem: LayerProblem, config: ScaleSearchConfig) -> LayerSolution:
    return LayerSolution(packed=scale_search(problem.weight, problem.block_spec, problem.energy, config))


register(
    Algorithm(
        name="scale_search",
        aliases=("k_quant", "kquant"),
        summary="search each block's scale and zero point for the least squared error, by input energy where known",
        needs=Needs.ENERGY,
        options=ScaleSearchConfig,
        solve=one_by_one(_solve),
    )
)
