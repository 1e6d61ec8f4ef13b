"""HQQ: half-quadratic quantization, which forgives outliers (Badri & Shaji 2023, mobiusml.github.io/hqq_blog).

Without data, each block's sum of |w - s (q - z)|^p, p = 3/4, is lowered by splitting the error: the auxiliary e is the
shrunken error (generalized soft threshold), then z = mean(q - (w - e) / s), and beta, which ties e to the error, grows
by a factor each round. Unlike the original, a block ends with a whole zero point within the codes (ONNX Runtime's
kernels take 100 times as long with a real one): in each round z is rounded, the scale refitted to the codes, and the
block keeps the best such grid so far, round-to-nearest's to begin with. So more rounds never raise the objective.
The authors use p = 0.7; 3/4 takes square roots only, which is 10 times as fast.
"""

from dataclasses import dataclass

import numpy as np

from vqonnx.algorithms.base import (
    Algorithm,
    LayerProblem,
    LayerSolution,
    Needs,
    WeightSpec,
    no_code_books,
    one_by_one,
    register,
)
from vqonnx.algorithms.slabs import by_slabs
from vqonnx.core.blocks import BlockSpec, QuantizedBlocks
from vqonnx.errors import OptionError
from vqonnx.kernels.blas import over_columns
from vqonnx.kernels.blocks.grid import F32, BlockGrid, FloatArray, checked_weight, min_max_grid, round_to_grid, top_code


@dataclass(frozen=True, slots=True, kw_only=True)
class HqqConfig:
    """Options of HQQ.

    Attributes:
        beta: Weight of the split in the first round.
        kappa: What beta is multiplied by after each round.
        rounds: Number of rounds.
    """

    beta: float = 10.0
    kappa: float = 1.01
    rounds: int = 20

    def __post_init__(self) -> None:
        if not (self.beta > 0 and self.kappa >= 1):
            raise OptionError(f"beta must be > 0 and kappa >= 1, got {self.beta} and {self.kappa}", option="beta")
        if self.rounds < 0:
            raise OptionError(f"rounds must be at least 0, got {self.rounds}", option="rounds")

    def thresholds(self) -> F32:
        """1 / beta of each round."""
        return (1 / (self.beta * self.kappa ** np.arange(self.rounds))).astype(np.float32)


def hqq(weight: FloatArray, spec: BlockSpec, config: HqqConfig | None = None) -> QuantizedBlocks:
    """Quantize ``weight`` for the least sum of |error|^p in each block.

    Args:
        weight: [K, N], float16, float32 or float64.
        spec: Bits, block size; asymmetric, since HQQ moves the zero point.
        config: Options.

    Raises:
        QuantRangeError: The weight holds NaN or infinity.
        OptionError: ``spec`` is symmetric.
    """
    refused = _refusal(spec)
    if refused is not None:
        raise OptionError(refused, option="symmetric")
    thresholds = (config or HqqConfig()).thresholds()
    return by_slabs(weight, lambda slab: round_to_grid(slab, _grid(checked_weight(slab), spec, thresholds), spec))


def _grid(weight: F32, spec: BlockSpec, thresholds: F32) -> BlockGrid:
    from vqonnx.kernels.blocks import hqq_loops

    grid, form = min_max_grid(weight, spec), (spec.size_for(weight.shape[0]), top_code(spec))

    def tile(left: int, right: int) -> None:
        hqq_loops.solve(weight, form, (left, right), thresholds, (grid.scales, grid.zero_points))

    over_columns(tile, weight.shape[1])
    return grid


def _refusal(spec: WeightSpec) -> str | None:
    if isinstance(spec, BlockSpec) and spec.symmetric:
        return "HQQ moves the zero point, so it needs symmetric=False; scale_search takes both"
    return no_code_books(spec)


def _solve(problem: LayerProblem, config: HqqConfig) -> LayerSolution:
    return LayerSolution(packed=hqq(problem.weight, problem.block_spec, config))


register(
    Algorithm(
        name="hqq",
        summary="half-quadratic search of zero points and scales that forgives outliers; asymmetric, without data",
        needs=Needs.NOTHING,
        options=HqqConfig,
        solve=one_by_one(_solve),
        refusal=_refusal,
        least_squares=False,
    )
)
