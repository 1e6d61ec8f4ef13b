"""Channel scales: what inputs are divided by, and rows of the weight multiplied, so that salient inputs err less.

Lin et al. 2023 (arXiv:2306.00978), section 3.2. For y = x W, (x / t) (diag(t) W) is the same function, but rounding
diag(t) W moves rows with a large t less. t = a^alpha, a the size of each input, and alpha is searched on a grid for the
least squared output error (equation 4); here exactly, as tr(E^T H E), without any samples. Layers that read the same
inputs share one t; the sum of their relative errors chooses it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from vqonnx.core.blocks import BlockSpec
from vqonnx.kernels.blocks.errors import SecondMoment
from vqonnx.kernels.blocks.grid import (
    F32,
    F64,
    BlockGrid,
    FloatArray,
    checked_energy,
    checked_weight,
    min_max_grid,
    nearest_values,
)
from vqonnx.kernels.blocks.hessian import checked_hessian
from vqonnx.kernels.parallel import in_parallel


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What is known of the inputs that one or several weights are multiplied with.

    Attributes:
        moment: H.
        sizes: a, the size of each input, [K].
    """

    moment: SecondMoment
    sizes: F64

    @classmethod
    def of(cls, moment: SecondMoment, k: int, magnitude: npt.ArrayLike | None = None) -> "Inputs":
        """With the given sizes, or root mean squares, sqrt(diag H).

        Raises:
            OptionError: The Hessian or the magnitudes are not K, or not finite.
        """
        checked_hessian(moment.matrix, k)
        sizes = checked_energy(np.sqrt(moment.energy) if magnitude is None else magnitude, k)
        return cls(moment, sizes.astype(np.float64))

    def divided_energy(self, channel_scales: F32) -> F32:
        """Energies of the inputs divided by ``channel_scales``, [K]."""
        return checked_energy(self.moment.energy / np.square(channel_scales, dtype=np.float64), len(self.sizes))

    def divided_moment(self, channel_scales: F32) -> F64:
        """H of the inputs divided by ``channel_scales``, [K, K]."""
        t = channel_scales.astype(np.float64)
        return self.moment.matrix / t / t[:, np.newaxis]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Which channel scales are tried.

    Attributes:
        alphas: Exponents, evenly from 0 (no scaling) below 1.
        by_weight: Whether each alpha > 0 is also tried with t / (mean |w| of the row)^(1 - alpha), as AutoAWQ has it.
        columns: Columns of each weight, evenly spread, that are looked at.
    """

    alphas: int = 20
    by_weight: bool = True
    columns: int = 128


def best_scales(
    weights: Sequence[FloatArray], specs: Sequence[BlockSpec], inputs: Inputs, search: Search | None = None
) -> F32:
    """The channel scales t [K] with which rounding to nearest errs least; ones where none help.

    Args:
        weights: [K, N] of each layer that reads the inputs.
        specs: How each is cut into blocks.
        inputs: What is known of the inputs.
        search: Which scales are tried.
    """
    search = search or Search()
    some = [checked_weight(weight[:, :: -(-weight.shape[1] // search.columns)]) for weight in weights]
    norms = [inputs.moment.output_error(weight) or 1.0 for weight in some]
    candidates = _candidates(some, inputs.sizes, search)
    errors = np.zeros(len(candidates))

    def work(start: int, stop: int) -> None:
        for number in range(start, stop):
            for weight, spec, norm in zip(some, specs, norms, strict=True):
                change = missed(weight, candidates[number], spec, partial(min_max_grid, spec=spec))
                errors[number] += inputs.moment.output_error(change, threads=1) / norm

    in_parallel(work, len(candidates))
    return candidates[int(np.argmin(errors))]


def _candidates(weights: Sequence[F32], sizes: F64, search: Search) -> list[F32]:
    """The first are ones."""
    rows = np.abs(np.concatenate(weights, axis=1)).mean(axis=1, dtype=np.float64)
    rows = np.maximum(rows / rows.mean(), 1e-4) if rows.any() else np.ones_like(rows)
    found = []
    for alpha in np.arange(search.alphas) / search.alphas:
        powers = [sizes**alpha] + ([sizes**alpha / rows ** (1 - alpha)] if search.by_weight and alpha > 0 else [])
        found += [np.clip(power / np.sqrt(power.max() * power.min()), 1e-4, 1e4) for power in powers]
    return [scales.astype(np.float32) for scales in found]


def missed(weight: F32, channel_scales: F32, spec: BlockSpec, grid_of: Callable[[F32], BlockGrid]) -> F32:
    """What the nearest values to ``diag(channel_scales) W``, divided again, miss of W [K, C].

    Args:
        weight: W.
        channel_scales: t [K].
        spec: Bits, block size, symmetry.
        grid_of: From the scaled weight to its grid.
    """
    rows = channel_scales[:, np.newaxis]
    scaled = weight * rows
    values = nearest_values(scaled, grid_of(scaled), spec)
    values /= rows
    return np.subtract(weight, values, out=values)
