"""The values that a scale may take: powers of two, 2^-position, and fixed-point numbers M * 2^-N.

A position is the number of fractional bits: codes of position 5 are multiples of 1/32. Rounding a scale up to the
next power of two covers the whole range; rounding to the nearest, which AMD's tools call "NonOverflow", can clip it by
up to a factor of sqrt(2). What goes through ``on_grid`` (and so ``affine_params``, every range method and every
constant) covers.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from vqonnx.core.params import QuantParams
from vqonnx.core.spec import ScaleGrid
from vqonnx.errors import QuantRangeError

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

# float32 scales stay normal numbers, since kernels may flush subnormals to zero. A float16 subnormal is a
# normal number in the float32 arithmetic of every kernel, so there the smallest subnormal is the floor.
SMALLEST_SCALE = {np.dtype(np.float32): 2.0**-126, np.dtype(np.float16): 2.0**-24}
LARGEST_SCALE = {np.dtype(np.float32): 3.4e38, np.dtype(np.float16): 65504.0}
LARGEST_POWER = {np.dtype(np.float32): 2.0**127, np.dtype(np.float16): 2.0**15}

LARGEST_MULTIPLIER = 32767
"""M of an M * 2^-N scale, a positive int16."""
LARGEST_SHIFT = 16
"""N of an M * 2^-N scale."""
LARGEST_POSITION = 126
"""Of a float32 scale that is a normal number."""


def on_grid(step: npt.ArrayLike, grid: ScaleGrid) -> F64:
    """The grid's scale for a step: the smallest power of two not below it, or the closest M * 2^-N.

    Args:
        step: Positive steps, any shape.
        grid: ``ScaleGrid.FREE`` gives the step itself.
    """
    if grid is ScaleGrid.POWER_OF_TWO:
        return scale_at(covering_position(step))
    if grid is ScaleGrid.INT16:
        multiplier, shift = fixed_point(step)
        return np.ldexp(multiplier.astype(np.float64), -shift)
    return np.asarray(step, np.float64)


def scale_at(position: npt.ArrayLike) -> F64:
    """2^-position; exact."""
    return np.ldexp(1.0, -np.asarray(position, np.int64))


def covering_position(step: npt.ArrayLike) -> I64:
    """The largest position whose scale is not below the (positive) step: nothing in the step's range is clipped."""
    mantissa, exponent = np.frexp(np.asarray(step, np.float64))
    return np.where(mantissa == 0.5, 1, 0).astype(np.int64) - exponent.astype(np.int64)


def position_of(scale: npt.ArrayLike) -> I64:
    """-log2 of scales that are powers of two.

    Raises:
        QuantRangeError: A scale is no power of two.
    """
    wide = np.asarray(scale, np.float64)
    mantissa, exponent = np.frexp(wide)
    if not (mantissa == 0.5).all():
        raise QuantRangeError(f"a position needs a scale that is a power of two, got {wide[mantissa != 0.5].flat[0]}")
    return 1 - exponent.astype(np.int64)


def fixed_point(step: npt.ArrayLike) -> tuple[I64, I64]:
    """(M, N) with M * 2^-N closest to the step, 1 <= M <= 32767 and 0 <= N <= 16; of equals the smallest N.

    The closest can be below the step and clip the ends of its range; by 2^-16 of it and less, but for steps below
    2^-2, where N ends: a step of 1e-4 is off by 7 %, and none is smaller than 2^-16.
    """
    wide = np.asarray(step, np.float64)[..., None]
    shifts = np.arange(LARGEST_SHIFT + 1)
    multipliers = np.clip(np.rint(np.ldexp(wide, shifts)), 1, LARGEST_MULTIPLIER)
    best = np.abs(np.ldexp(multipliers, -shifts) - wide).argmin(axis=-1)
    return np.take_along_axis(multipliers, best[..., None], axis=-1)[..., 0].astype(np.int64), best


def at_position(params: QuantParams, position: npt.ArrayLike) -> QuantParams:
    """The same parameters on the scale 2^-position: the range grows or shrinks about zero, the zero point stays.

    Args:
        params: Parameters of any scale.
        position: One for all, or in the shape of the scale; what its dtype cannot hold becomes its nearest power.
    """
    dtype = params.scale.dtype
    scale = np.clip(scale_at(position), SMALLEST_SCALE[dtype], LARGEST_POWER[dtype])
    return replace(params, scale=np.array(np.broadcast_to(scale, params.scale.shape), dtype))
